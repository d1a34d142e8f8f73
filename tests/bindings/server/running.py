"""The application on a tiny random engine: asked in the same process, or over loopback by real clients."""

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from openai import OpenAI

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
    served, config = AsyncEngine(engine), ServerConfig(**{"served_model_name": "tiny", **settings})
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
        app = create_app(served, ServerConfig(**{"served_model_name": "tiny", **settings}))
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


@contextmanager
def gated(engine: Engine) -> Iterator[threading.Semaphore]:
    """Let the engine make a step only for each ``release()``; in the end, it is free again."""
    permits, advance = threading.Semaphore(0), engine.loop.advance

    def wait() -> Any:
        permits.acquire()
        return advance()

    engine.loop.advance = wait  # type: ignore[method-assign]
    try:
        yield permits
    finally:
        engine.loop.advance = advance  # type: ignore[method-assign]
        permits.release(1 << 20)


USER = {"role": "user", "content": "The pump vibrates."}


def chat(**more: Any) -> dict[str, Any]:
    """A request for a chat; greedy, six tokens."""
    return {"model": "tiny", "messages": [USER], "max_tokens": 6, "temperature": 0, **more}


def events(text: str) -> list[dict[str, Any]]:
    """The events of a stream that ended well."""
    *found, done, empty = text.split("\n\n")
    assert (done, empty) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in found]


JSON = {"content-type": "application/json"}
CHAT = "/v1/chat/completions"


def error_of(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and "\n" not in error["message"]
    return error


@pytest.fixture(scope="module")
def server(served_folder: Path) -> Iterator[Running]:
    with Engine.from_pretrained(served_folder / "model", dtype="float32", device="cpu", block_size=16) as engine:
        for name in ("parts", "checker"):
            engine.add_adapter(name, served_folder / name)
        with running(engine, api_keys=("secret", "other"), max_new_tokens=64) as started:
            yield started
        engine.check_integrity()


@pytest.fixture(scope="module")
def openai_client(server: Running) -> OpenAI:
    return OpenAI(base_url=f"{server.url}/v1", api_key="secret", max_retries=0)
