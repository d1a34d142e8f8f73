"""Fixtures: the application on a tiny random engine, asked in the same process."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import httpx
import pytest

from alorakit import AsyncEngine, Engine
from alorakit.bindings.server import ServerConfig, create_app

Client = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


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
                http.app = app  # type: ignore[attr-defined]
                yield http
        finally:
            served.detach()

    return asking
