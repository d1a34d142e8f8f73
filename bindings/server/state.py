"""What the server knows while it runs: the engine once it is loaded, who is being answered, whether it drains."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from fastapi import Request

from alorakit.bindings.history import GeneratedTexts
from alorakit.bindings.server.access import Access
from alorakit.bindings.server.config import ServerConfig
from alorakit.bindings.server.errors import HttpError

if TYPE_CHECKING:
    from alorakit.engine.adapters import AdapterInfo
    from alorakit.engine.async_engine import AsyncEngine


class ServerState:
    """One server's state; ``app.state.alorakit``. Everything happens in its event loop.

    Attributes:
        engine: What serves the model, or None while it is being loaded.
        config: The settings.
        history: The ids that assistant messages were generated with.
        in_flight: Requests that are being answered.
        draining: Whether no new request is taken.
        load_error: Why the model cannot be loaded, or None.
        created: Unix time at which the server was made, in seconds.
        observers: Called with each request's record once it has been answered, as metrics need it.
    """

    def __init__(self, engine: "AsyncEngine | None", config: ServerConfig, created: int) -> None:
        """``engine`` None: it is set when it is loaded."""
        self.engine, self.config, self.created = engine, config, created
        self.history = GeneratedTexts()
        self.in_flight = 0
        self.draining = False
        self.load_error: str | None = None
        self.observers: list[Callable[[Access], None]] = []

    @property
    def ready(self) -> bool:
        """Whether requests are answered."""
        return self.engine is not None and self.engine.is_open and not self.draining

    def serving(self) -> "AsyncEngine":
        """The engine.

        Raises:
            HttpError: 503: the model is being loaded, the server drains, or the engine has failed.
        """
        if self.engine is not None and self.ready:
            return self.engine
        if self.draining:
            reason = "the server is ending and takes no new request"
        elif self.load_error is not None:
            reason = f"the model cannot be loaded: {self.load_error}"
        elif self.engine is None:
            reason = "the model is being loaded"
        else:
            reason = "the engine has failed or was closed"
        raise HttpError(503, f"{reason}; send the request again later, or to another server")

    @property
    def model_id(self) -> str:
        """What clients call the base model."""
        return self.config.served_model_name or self.serving().model_name

    def adapter_of(self, model: str) -> "AdapterInfo | None":
        """The adapter that a request's ``model`` names; None for the base model.

        Raises:
            HttpError: 404: neither.
        """
        adapters = self.serving().adapters
        if model == self.model_id:
            return None
        if model in adapters:
            return adapters[model]
        raise HttpError(
            404,
            f"model {model!r:.200} is neither the base model {self.model_id!r} nor an adapter that is loaded; "
            "GET /v1/models lists them",
            param="model",
            code="model_not_found",
        )


def state_of(request: Request) -> ServerState:
    """The state of the server that a request came to; use it as ``Depends(state_of)``."""
    state: ServerState = request.app.state.alorakit
    return state
