"""Clients that ask for much and take nothing of it."""

import asyncio
import json
import socket
import time
from collections.abc import Callable
from typing import Any

import httpx
import psutil
import pytest
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from alorakit.bindings.server import protocol
from tests.bindings.server.raw import post, shared_engine
from tests.bindings.server.running import CHAT, Running, chat

engine = shared_engine
Live = Callable[..., Running]


@pytest.fixture(params=[HttpToolsProtocol, H11Protocol], ids=["httptools", "h11"], autouse=True)
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "AutoHTTPProtocol", request.param)


def deaf(server: Running, body: dict[str, Any], *headers: str) -> socket.socket:
    """A client with hardly any room for an answer, which it does not read."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    sock.connect(("127.0.0.1", server.port))
    content = json.dumps(body).encode()
    sock.sendall(post(f"content-length: {len(content)}", *headers) + content)
    return sock


async def ended(server: Running, seconds: float = 40) -> None:
    state = server.app.state.alorakit
    async with asyncio.timeout(seconds):
        while state.in_flight or server.engine.stats().running or connections(server):
            await asyncio.sleep(0.01)


def connections(server: Running) -> int:
    """Connections that the server still holds, of those it had accepted."""
    here = psutil.Process().net_connections("tcp")
    return sum(each.laddr.port == server.port and each.status in ("ESTABLISHED", "CLOSE_WAIT") for each in here)


ENDLESS = {"max_tokens": 500, "ignore_eos": True, "logprobs": True, "top_logprobs": 20}


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_answers_that_nobody_reads(live: Live, stream: bool) -> None:
    server = live(read_timeout_s=1)
    before = psutil.Process().memory_info().rss
    socks = [deaf(server, chat(**ENDLESS, stream=stream, n=4)) for _ in range(2)]
    try:
        time.sleep(0.1)
        asyncio.run(ended(server))
        assert psutil.Process().memory_info().rss - before < 600 << 20
    finally:
        for sock in socks:
            sock.close()
    assert httpx.post(server.url + CHAT, json=chat(), timeout=60).status_code == 200
