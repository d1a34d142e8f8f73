"""An OpenAI-compatible HTTP server on one AsyncEngine: FastAPI and uvicorn, installed by ``alorakit[serve]``."""

from importlib.util import find_spec
from typing import TYPE_CHECKING

from alorakit.bindings.server.config import ServerConfig as ServerConfig
from alorakit.engine.errors import ConfigError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from alorakit.engine.async_engine import AsyncEngine

PACKAGES = ("fastapi", "uvicorn", "prometheus_client")


def check_installed() -> None:
    """See that what the server needs is installed; nothing is imported.

    Raises:
        ConfigError: A package is missing.
    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ConfigError(f"the server needs {', '.join(missing)}; run: pip install 'alorakit[serve]'")


def create_app(engine: "AsyncEngine | None", config: ServerConfig | None = None) -> "FastAPI":
    """The application; see :func:`alorakit.bindings.server.app.create_app`.

    Args:
        engine: What serves the model; None: not loaded yet, see :class:`~alorakit.bindings.server.state.ServerState`.
        config: Settings; None: the defaults.

    Raises:
        ConfigError: A package is missing.
    """
    check_installed()
    from alorakit.bindings.server import app

    return app.create_app(engine, config or ServerConfig())
