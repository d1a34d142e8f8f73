import asyncio
import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.bindings.server.running import CHAT, JSON, Client, Running, chat, error_of


def deep(levels: int) -> bytes:
    return b'{"model": "tiny", "metadata": ' + b'{"a":' * levels + b"1" + b"}" * levels + b"}"


BAD_BODIES = {
    "not JSON": (b"{", "line 1 column 2"),
    "NaN": (b'{"temperature": NaN}', "NaN"),
    "Infinity": (b'{"temperature": -Infinity}', "-Infinity"),
    "out of range": (b'{"temperature": 1e999}', "1e999"),
    "invalid UTF-8": (b'{"model": "\xff"}', "not valid UTF-8 at byte 11"),
    "UTF-16": ('{"model": "x"}'.encode("utf-16"), "not valid UTF-8 at byte 0"),
    "half a pair": (rb'{"model": "\ud800"}', "surrogate"),
    "twice": (b'{"model": "a", "model": "b"}', "'model' comes twice"),
    "deep": (deep(64), "nested more than 64"),
    "very deep": (b"[" * 100_000, "nested more than 64"),
    "no object": (b"[]", "the body=[]"),
    "null": (b"null", "the body=None"),
    "a long number": (b'{"n": ' + b"9" * 5000 + b"}", "digits"),
}


@pytest.mark.parametrize("name", BAD_BODIES)
def test_bad_bodies(client: Client, name: str) -> None:
    body, reason = BAD_BODIES[name]

    async def ask() -> None:
        async with client() as http:
            assert reason in error_of(await http.post(CHAT, content=body, headers=JSON), 400)["message"]
            assert (await http.post(CHAT, json=chat())).status_code == 200

    asyncio.run(ask())


def test_depth_within_the_limit_is_read(client: Client) -> None:
    async def ask() -> None:
        async with client() as http:
            error = error_of(await http.post(CHAT, content=deep(63), headers=JSON), 400)
            assert error["param"] == "messages"  # what is missing, not what is deep

    asyncio.run(ask())


@pytest.mark.parametrize("kind", [None, "text/plain", "application/json; charset=latin-1", "multipart/form-data"])
def test_content_type(client: Client, kind: str | None) -> None:
    async def ask() -> None:
        async with client() as http:
            headers = {} if kind is None else {"content-type": kind}
            error = error_of(await http.post(CHAT, content=json.dumps(chat()), headers=headers), 415)
            assert error["code"] == "unsupported_media_type"
            allowed = {"content-type": "application/json; charset=UTF-8"}
            assert (await http.post(CHAT, content=json.dumps(chat()), headers=allowed)).status_code == 200

    asyncio.run(ask())


@pytest.mark.parametrize("chunked", [False, True])
def test_body_size(live: Callable[..., Running], chunked: bool) -> None:
    server = live(max_body_bytes=2000)

    def pieces() -> Iterator[bytes]:
        for _ in range(160):
            yield b"x" * 65536  # 10 MB

    content: Any = pieces() if chunked else b"x" * 10_000_000
    with httpx.Client(base_url=server.url) as http:
        error = error_of(http.post(CHAT, content=content, headers=JSON), 413)
        assert "2000" in error["message"] and error["code"] == "body_too_large"
        assert http.post(CHAT, json=chat()).status_code == 200
        exact = json.dumps(chat()).ljust(2000).encode()
        assert http.post(CHAT, content=exact, headers=JSON).status_code == 200
        error_of(http.post(CHAT, content=exact + b" ", headers=JSON), 413)


def read_all(sock: socket.socket) -> bytes:
    """What a server says until it closes the connection."""
    found = b""
    sock.settimeout(20)
    try:
        while piece := sock.recv(4096):
            found += piece
    except ConnectionResetError:
        pass
    return found


def test_a_body_that_does_not_end(live: Callable[..., Running]) -> None:
    server = live(read_timeout_s=0.3)
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n"
        sock.sendall(head.encode() + b"{")
        said = read_all(sock)
    assert said.startswith(b"HTTP/1.1 408 ") and b"read_timeout_s" in said


def test_a_refused_body_that_does_not_end(live: Callable[..., Running]) -> None:
    server = live(read_timeout_s=0.3, api_keys=("secret",))
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall(f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n".encode())
        sock.settimeout(20)
        assert sock.recv(4096).startswith(b"HTTP/1.1 401 ")
        sock.sendall(b"{")
        assert b"HTTP/1.1 408 " in read_all(sock)
