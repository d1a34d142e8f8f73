"""The application on a tiny random engine: asked in the same process, or over loopback by real clients."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from alorakit import AsyncEngine, Engine
from alorakit.bindings.server import ServerConfig, create_app
from alorakit.bindings.server.protocol import limited_protocol

Client = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


@dataclass
class Running:
    """A server on loopback, in a thread of its own."""

    url: str
    port: int
    app: FastAPI
    engine: Engine
    served: AsyncEngine


@contextmanager
def running(engine: Engine, **settings: Any) -> Iterator[Running]:
    """Serve an engine; the application's settings are the keywords. The engine stays open."""
    served, config = AsyncEngine(engine), ServerConfig(**settings)
    app = create_app(served, config)
    sock = socket.create_server(("127.0.0.1", 0))
    options = uvicorn.Config(app, http=limited_protocol(config.read_timeout_s), ws="none", log_config=None)
    server = uvicorn.Server(options)
    thread = threading.Thread(target=server.run, args=([sock],), name="test-server")
    thread.start()
    port = sock.getsockname()[1]
    try:
        yield Running(f"http://127.0.0.1:{port}", port, app, engine, served)
    finally:
        server.should_exit = True
        thread.join(20)
        served.detach()
        assert not thread.is_alive()


@pytest.fixture
def live(engine: Engine) -> Iterator[Callable[..., Running]]:
    """``live(api_keys=(...))``: a server on a free port of loopback until the test ends."""
    entered = []

    def start(**settings: Any) -> Running:
        entered.append(running(engine, **settings))
        return entered[-1].__enter__()

    yield start
    for each in reversed(entered):
        each.__exit__(None, None, None)


@pytest.fixture
def client(engine: Engine) -> Client:
    """``async with client(api_keys=(...)) as http``: the application's settings are the keywords."""

    @asynccontextmanager
    async def asking(**settings: Any) -> AsyncIterator[httpx.AsyncClient]:
        served = AsyncEngine(engine)
        app = create_app(served, ServerConfig(**settings))
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        try:
            async with httpx.AsyncClient(transport=transport, base_url="http://server") as http:
                http.app, http.served = app, served  # type: ignore[attr-defined]
                yield http
        finally:
            served.detach()

    return asking


async def settled(served: AsyncEngine) -> None:
    """Wait until the engine has nothing to do; a request that nobody gave up would hang here."""
    await asyncio.wait_for(served.drain(), 20)
