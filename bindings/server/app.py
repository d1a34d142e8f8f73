"""The application: middleware, routers and error handlers, nothing else."""

import time
from types import ModuleType
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Match

from alorakit.bindings.server import adapters, chat, checks, completions, health, metrics, models, page, score
from alorakit.bindings.server.config import ServerConfig
from alorakit.bindings.server.errors import HttpError, as_http_error
from alorakit.bindings.server.guard import Guard
from alorakit.bindings.server.openapi import describe
from alorakit.bindings.server.state import ServerState
from alorakit.bindings.server.validation import as_field_error
from alorakit.engine.errors import AlorakitError

if TYPE_CHECKING:
    from alorakit.engine.async_engine import AsyncEngine

# Each has a ``router``; to add an endpoint, write a module and name it here.
MODULES: tuple[ModuleType, ...] = (models, chat, completions, checks, score, adapters, health, metrics, page)


def create_app(engine: "AsyncEngine | None", config: ServerConfig) -> FastAPI:
    """The application; ``app.state.alorakit`` is its :class:`ServerState`.

    Args:
        engine: What serves the model; the caller closes it. None: it is loaded later and put into the state.
        config: Settings.
    """
    state = ServerState(engine, config, int(time.time()))
    # The pages for documentation would load scripts from elsewhere.
    app = FastAPI(title="alorakit", docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.alorakit = state
    app.state.metrics = metrics.ServerMetrics(state)
    for module in MODULES:
        app.include_router(module.router)
    app.openapi = lambda: describe(app)  # type: ignore[method-assign]
    app.add_exception_handler(AlorakitError, _failed)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_middleware(Guard, state=state)
    if config.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=config.cors_origins,
            allow_methods=("GET", "POST", "DELETE"),
            allow_headers=("authorization", "content-type", "x-request-id"),
            expose_headers=("x-request-id", "retry-after"),
        )
    return app


async def _failed(request: Request, error: Exception) -> Response:
    return _told(request, as_http_error(error, request.scope["alorakit.access"].request_id))


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.url.path
    message = f"{request.method} {path[:200]}: {error.detail}; GET /openapi.json lists what there is"
    headers = {name.lower(): value for name, value in (error.headers or {}).items()}
    if error.status_code == 405:  # Starlette names the methods of the first route only
        routes = [route for module in MODULES for route in module.router.routes]
        found = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
        headers["allow"] = ", ".join(sorted({method for route in found for method in route.methods}))
    return _told(request, HttpError(error.status_code, message, headers=headers))


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return _told(request, as_field_error(error))


def _told(request: Request, error: HttpError) -> Response:
    request.scope["alorakit.access"].error = error.code
    return error.response()
