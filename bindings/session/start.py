"""Backend and session in one call."""

from collections.abc import Mapping
from typing import Any, Literal

from alorakit.bindings.session.backend import EngineBackend
from alorakit.bindings.session.context import ChatContext, Context, SimpleContext
from alorakit.bindings.session.kinds import demand, refuse
from alorakit.bindings.session.session import MelleaSession
from alorakit.engine.errors import ConfigError
from alorakit.engine.pretrained import DEMO_MODEL

BACKEND = "alorakit"
_CONTEXTS: dict[str | None, type[Context]] = {None: SimpleContext, "simple": SimpleContext, "chat": ChatContext}


def start_session(
    backend_name: str = BACKEND,
    model_id: str = DEMO_MODEL,
    ctx: Context | None = None,
    *,
    context_type: Literal["simple", "chat"] | None = None,
    model_options: Mapping[str, Any] | None = None,
    plugins: None = None,
    allow_context_type_change: bool = False,
    **backend_kwargs: Any,
) -> MelleaSession:
    """Load a model and start a session on it. Leaving the session does not close ``session.backend``.

    Args:
        backend_name: ``"alorakit"``.
        model_id: Hub id or folder of the base model.
        ctx: What was said so far; None: an empty context, as ``context_type`` says.
        context_type: ``"simple"`` (also for None): turns do not see each other; ``"chat"``: they do.
        model_options: Defaults for every call.
        plugins: None; not supported.
        allow_context_type_change: See :class:`MelleaSession`.
        backend_kwargs: Fields of ``EngineConfig``.

    Raises:
        ConfigError: Another backend, both ``ctx`` and ``context_type``, or a value out of range.
        AlorakitError: The model cannot be loaded.
    """
    refuse("start_session", plugins=plugins)
    demand("model_id", model_id, str, ConfigError)
    if backend_name != BACKEND:
        raise ConfigError(
            f"backend_name={backend_name!r} is not a backend of this package; leave it out (it is {BACKEND!r}), or use "
            "Mellea's own start_session"
        )
    if ctx is not None and context_type is not None:
        raise ConfigError("ctx and context_type exclude each other; give one of them")
    if context_type not in _CONTEXTS:
        raise ConfigError(f"context_type={context_type!r} is unknown; use 'simple' or 'chat'")
    backend = EngineBackend(model_id, model_options=model_options, **backend_kwargs)
    ctx = _CONTEXTS[context_type]() if ctx is None else ctx
    return MelleaSession(backend, ctx, allow_context_type_change=allow_context_type_change)
