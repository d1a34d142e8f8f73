"""Requests as bytes, for what no well-behaved client sends."""

import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from alorakit import Engine
from tests.bindings.server.running import CHAT, Running


def connect(server: Running) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=30)


def read_all(sock: socket.socket) -> bytes:
    """What the server says until it closes the connection."""
    found = b""
    with suppress(ConnectionResetError):  # it closed while data was on its way
        while piece := sock.recv(1 << 16):
            found += piece
    return found


def post(*headers: str, path: str = CHAT) -> bytes:
    """The head of a request with JSON."""
    lines = [f"POST {path} HTTP/1.1", "host: localhost", "content-type: application/json", *headers, "", ""]
    return "\r\n".join(lines).encode()


def say(server: Running, *pieces: bytes) -> bytes:
    """What a server answers to bytes, until it closes."""
    with connect(server) as sock:
        with suppress(ConnectionResetError, BrokenPipeError):
            for piece in pieces:
                sock.sendall(piece)
        return read_all(sock)


def statuses(raw: bytes) -> list[int]:
    """The status of each response."""
    return [int(part[:3]) for part in raw.split(b"HTTP/1.1 ")[1:]]


@pytest.fixture(scope="module", name="engine")
def shared_engine(served_folder: Path) -> Iterator[Engine]:
    """One engine for a file of attacks: none of them may harm it."""
    with Engine.from_pretrained(served_folder / "model", dtype="float32", device="cpu", block_size=16) as made:
        for name in ("parts", "checker"):
            made.add_adapter(name, served_folder / name)
        yield made
        made.check_integrity()
