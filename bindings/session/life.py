"""A session's life: what it holds, how it is copied, forgotten and left."""

from contextvars import ContextVar, Token
from types import NoneType, TracebackType
from typing import TYPE_CHECKING, Self
from uuid import uuid4

from alorakit.bindings.session.backend import EngineBackend
from alorakit.bindings.session.context import Context, SimpleContext
from alorakit.bindings.session.kinds import demand
from alorakit.engine.errors import ConfigError, ContextTypeError

if TYPE_CHECKING:
    from alorakit.bindings.session.session import MelleaSession

_ACTIVE: "ContextVar[SessionLife | None]" = ContextVar("alorakit_session", default=None)


class SessionLife:
    """What a :class:`MelleaSession` has beside its verbs; see there."""

    def __init__(
        self,
        backend: EngineBackend,
        ctx: Context | None = None,
        *,
        session_id: str | None = None,
        allow_context_type_change: bool = False,
    ) -> None:
        demand("backend", backend, EngineBackend, ConfigError)
        demand("ctx", ctx, (Context, NoneType), ConfigError)
        demand("session_id", session_id, (str, NoneType), ConfigError)
        self.backend, self.id = backend, session_id or str(uuid4())
        self.allow_context_type_change = allow_context_type_change
        self.ctx: Context = ctx if ctx is not None else SimpleContext()
        self._token: Token[SessionLife | None] | None = None

    def reset(self) -> None:
        """Forget what was said; the context keeps its settings."""
        self.ctx = self.ctx.new_instance()

    def clone(self) -> Self:
        """A session of its own from here on, with the same backend and past."""
        return type(self)(self.backend, self.ctx, allow_context_type_change=self.allow_context_type_change)

    def __copy__(self) -> Self:
        return self.clone()

    def last_prompt(self) -> list[dict[str, str]] | None:
        """The messages that the last output answered, as role and content; None if nothing was generated."""
        output = self.ctx.last_output()
        if output is None or output.prompt is None:
            return None
        return [{"role": message.role, "content": message.format_for_llm()} for message in output.prompt]

    def cleanup(self, *, exception: BaseException | None = None) -> None:
        """Nothing: the session holds nothing, and its backend may serve others. Close that when nobody needs it.

        Args:
            exception: Accepted for Mellea's sake.
        """

    def __enter__(self) -> Self:
        self._token = _ACTIVE.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cleanup(exception=error)
        if self._token is not None:
            _ACTIVE.reset(self._token)
            self._token = None

    def _go_on(self, contexts: list[Context]) -> None:
        """Take the last of some contexts as the session's, which only a session that allows it changes in kind."""
        for context in contexts:
            if type(context) is not type(self.ctx) and not self.allow_context_type_change:
                raise ContextTypeError(
                    f"the strategy made a {type(context).__name__} of the session's {type(self.ctx).__name__}; if that "
                    "is meant, give the session allow_context_type_change=True"
                )
        self.ctx = contexts[-1]


def get_session() -> "MelleaSession":
    """The session whose ``with`` block this is.

    Raises:
        ConfigError: It is none's.
    """
    session = _ACTIVE.get()
    if session is None:
        raise ConfigError("no session is active; call this inside `with start_session(...):`")
    return session  # type: ignore[return-value]  # whoever enters one is a MelleaSession
