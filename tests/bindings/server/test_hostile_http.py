"""Attacks below JSON: lengths, slowness, connections and methods."""

import gzip
import json
import resource
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack

import httpx
import psutil
import pytest
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from alorakit.bindings.server import protocol
from tests.bindings.server.raw import connect, post, read_all, say, shared_engine, statuses
from tests.bindings.server.running import CHAT, JSON, Running, chat, error_of

engine = shared_engine
Live = Callable[..., Running]
GOOD = json.dumps(chat()).encode()
CLOSE = "connection: close"


@pytest.fixture(params=[HttpToolsProtocol, H11Protocol], ids=["httptools", "h11"])
def both(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "AutoHTTPProtocol", request.param)


def serves(server: Running) -> None:
    assert httpx.post(server.url + CHAT, json=chat(), timeout=30).status_code == 200
    assert server.app.state.alorakit.in_flight == 0


@pytest.mark.usefixtures("both")
def test_ten_megabytes(live: Live) -> None:
    server = live()
    body = b" " * 10_000_000
    before = psutil.Process().memory_info().rss
    lengths = [f"content-length: {len(body)}", CLOSE]
    assert statuses(say(server, post(*lengths), body))[:1] in ([413], [])  # a reset may overtake the answer
    chunk = b"%x\r\n%b\r\n" % (1 << 16, b" " * (1 << 16))
    assert statuses(say(server, post("transfer-encoding: chunked", CLOSE), *[chunk] * 160))[:1] in ([413], [])
    assert statuses(say(server, post(f"content-length: {10**17}", CLOSE))) == [413]  # said, and never sent
    assert psutil.Process().memory_info().rss - before < 64 << 20
    serves(server)


@pytest.mark.usefixtures("both")
@pytest.mark.parametrize(
    ("headers", "body", "expected"),
    [
        (["content-length: 99999999999999999999999"], b"{}", [400]),
        (["content-length: -1"], b"{}", [400]),
        (["content-length: 0x10"], b"{}", [400]),
        (["content-length: 5", "content-length: 6"], b"{}   ", [400]),
        (["content-length: 4", "transfer-encoding: chunked"], b"0\r\n\r\nGET /health HTTP/1.1\r\n\r\n", [400]),
        (["transfer-encoding: chunked", "content-length: 3"], b"0\r\n\r\n", [400]),
        (["transfer-encoding: xchunked"], b"0\r\n\r\n", [400]),
        (["transfer-encoding: chunked"], b"zz\r\n{}\r\n0\r\n\r\n", [400]),
        (["transfer-encoding: chunked"], b"ffffffffffffffffff\r\n{}\r\n", [400]),
        (["x y: z", "content-length: 2"], b"{}", [400]),
        (["content-length : 2"], b"{}", [400]),
        (["x: a\0b", "content-length: 2"], b"{}", [400]),
    ],
)
def test_lengths_that_contradict_themselves(live: Live, headers: list[str], body: bytes, expected: list[int]) -> None:
    server = live(read_timeout_s=1)
    found = statuses(say(server, post(*headers, CLOSE), body))
    assert found == expected or (found == [408] and "chunked" in headers[0])  # h11 waits for so long a chunk
    serves(server)


@pytest.mark.usefixtures("both")
def test_a_length_that_lies(live: Live) -> None:
    server = live(read_timeout_s=0.3)
    assert statuses(say(server, post(f"content-length: {len(GOOD) + 9}"), GOOD)) == [408]
    # What is beyond the length is another request, and no good one.
    found = statuses(say(server, post("content-length: 2"), b"{}" + b"x" * 40 + b"\r\n\r\n"))
    assert found[-1] == 400 and set(found) == {400}
    serves(server)


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "gzip, identity"])
def test_packed_bodies(live: Live, coding: str) -> None:
    server = live()
    bomb = gzip.compress(b" " * (3 << 20))
    answer = httpx.post(server.url + CHAT, content=bomb, headers={**JSON, "content-encoding": coding})
    assert "content-encoding" in error_of(answer, 415)["message"]
    plain = httpx.post(server.url + CHAT, content=GOOD, headers={**JSON, "content-encoding": "identity"})
    assert plain.status_code == 200


@pytest.mark.usefixtures("both")
@pytest.mark.parametrize("part", ["head", "body", "chunks"])
def test_slow_loris(live: Live, part: str) -> None:
    server = live(read_timeout_s=0.6)
    with connect(server) as sock:
        if part == "body":
            sock.sendall(post("content-length: 1000"))
        elif part == "chunks":
            sock.sendall(post("transfer-encoding: chunked"))
        drip = b"POST /" + b"a" * 600 if part == "head" else b"1\r\n \r\n" * 100
        answers: list[bytes] = []
        reader = threading.Thread(target=lambda: answers.append(read_all(sock)))
        reader.start()
        started = time.monotonic()
        for byte in drip:
            try:
                sock.send(bytes([byte]))
            except OSError:
                break
            reader.join(0.05)
            if not reader.is_alive():
                break
        reader.join(20)
        assert statuses(answers[0]) in ([408], [])
        assert time.monotonic() - started < 15
    serves(server)


def test_two_thousand_idle_connections(live: Live) -> None:
    server = live(read_timeout_s=1.5)
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 4500:
        pytest.skip("this process may not open so many files")
    with ExitStack() as stack:
        idle = [stack.enter_context(connect(server)) for _ in range(2000)]
        refused = read_all(idle[-1])
        assert statuses(refused) == [503] and b"1024 connections" in refused
        assert statuses(read_all(idle[0])) == [408]
        read_all(idle[1000])
        serves(server)


@pytest.mark.usefixtures("both")
def test_upgrades_and_methods(live: Live) -> None:
    server = live()
    websocket = ["upgrade: websocket", "connection: Upgrade", "sec-websocket-key: eA==", "sec-websocket-version: 13"]
    head = "\r\n".join(["GET /v1/models HTTP/1.1", "host: localhost", *websocket, "", ""]).encode()
    with connect(server) as sock:
        sock.sendall(head)
        assert statuses(sock.recv(1 << 16)) == [200]  # as if nothing had been asked: no protocol is switched to
    for method in ("HEAD", "OPTIONS", "TRACE", "PUT", "PATCH", "PROPFIND"):
        for path in (CHAT, "/v1/models", "/health"):
            request = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\n{CLOSE}\r\nx-mark: echoed\r\n\r\n".encode()
            raw = say(server, request)
            assert statuses(raw) == [405] and b"echoed" not in raw, (method, path)
            assert b"allow:" in raw.lower()
            assert (method == "HEAD") == raw.endswith(b"\r\n\r\n")
    tunnel = say(server, b"CONNECT localhost:22 HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
    assert statuses(tunnel)[0] >= 400
    assert statuses(say(server, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))[-1] == 400
    serves(server)


def test_pipelined_requests_are_answered_one_by_one(live: Live) -> None:
    server = live()
    request = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"
    last = b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    assert statuses(say(server, request * 500 + last)) == [200] * 501


def test_a_socket_that_is_half_closed(live: Live) -> None:
    server = live()
    with connect(server) as sock:
        sock.sendall(post(f"content-length: {len(GOOD)}", CLOSE) + GOOD)
        sock.shutdown(socket.SHUT_WR)
        read_all(sock)
    serves(server)
