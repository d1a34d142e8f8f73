"""Limits on connections and on a request's head, over httptools and over h11."""

import json
from collections.abc import Callable
from contextlib import suppress

import httpx
import pytest
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from alorakit.bindings.server import protocol
from tests.bindings.server.raw import connect, read_all
from tests.bindings.server.running import Running

Live = Callable[..., Running]


@pytest.fixture(params=[HttpToolsProtocol, H11Protocol], ids=["httptools", "h11"], autouse=True)
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "AutoHTTPProtocol", request.param)


def refusal(raw: bytes) -> tuple[int, str]:
    """Status and code of the last response."""
    head, _, body = raw.rpartition(b"HTTP/1.1 ")[2].partition(b"\r\n\r\n")
    assert b"connection: close" in head.lower()
    assert f"content-length: {len(body)}".encode() in head
    return int(head[:3]), json.loads(body)["error"]["code"]


@pytest.mark.parametrize("begun", [b"", b"GET /health HT", b"GET /health HTTP/1.1\r\nx-a: b\r\n"])
def test_a_head_that_does_not_come(live: Live, begun: bytes) -> None:
    server = live(read_timeout_s=0.2)
    with connect(server) as sock:
        sock.sendall(begun)
        assert refusal(read_all(sock)) == (408, "request_timeout")
    whole = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"
    with connect(server) as sock:  # the second request of a connection
        sock.sendall(whole)
        assert sock.recv(1 << 16).startswith(b"HTTP/1.1 200")
        sock.sendall(whole[:20])
        assert refusal(read_all(sock)) == (408, "request_timeout")
    assert httpx.get(f"{server.url}/health").status_code == 200


@pytest.mark.parametrize("header", [b"x-long: " + b"a" * (1 << 20), b"x: y\r\n" * (1 << 17)])
def test_a_head_without_end(live: Live, header: bytes) -> None:
    server = live()
    with connect(server) as sock:
        with suppress(ConnectionResetError, BrokenPipeError):
            sock.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n" + header)
        raw = read_all(sock)
    if raw:  # a reset may have overtaken the response
        assert refusal(raw)[0] in (400, 431)
    assert httpx.get(f"{server.url}/health").status_code == 200


def test_what_is_no_http(live: Live) -> None:
    server = live()
    for noise in (b"\x16\x03\x01\x02\x00\x01", b"NONSENSE\r\n\r\n", b"GET /health FTP/1.1\r\n\r\n"):
        with connect(server) as sock:
            sock.sendall(noise)
            assert refusal(read_all(sock))[0] == 400


def test_a_body_may_be_long_and_requests_may_follow_each_other(live: Live) -> None:
    server = live(api_keys=["k"])
    with httpx.Client(base_url=server.url) as http:
        for _ in range(3):  # refused before the body is read, which still comes
            answer = http.post("/v1/checks", content=b" " * (3 << 20))
            assert answer.status_code == 401
            assert http.get("/health").status_code == 200


def test_connections_beyond_the_limit(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol.limited_protocol, "__defaults__", (2,))
    server = live()
    with connect(server) as first, connect(server) as second:
        for each in (first, second):
            each.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert each.recv(1 << 16).startswith(b"HTTP/1.1 200")
        with connect(server) as third:
            assert refusal(read_all(third)) == (503, "unavailable")
    while True:  # the server sees that they are gone
        with connect(server) as again:
            again.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            if read_all(again).startswith(b"HTTP/1.1 200"):
                break
