"""What a session remembers. Contexts never change: ``add`` returns a new one."""

from abc import ABC, abstractmethod
from types import NoneType
from typing import Self

from alorakit.bindings.session.blocks import CBlock, Message, ModelOutputThunk, Span, as_message
from alorakit.bindings.session.kinds import demand
from alorakit.engine.errors import ConfigError, RequestError


class Context(ABC):
    """An immutable list of what was said, and a view of it for the next generation."""

    def __init__(self) -> None:
        self._items: tuple[Span, ...] = ()

    @abstractmethod
    def view_for_generation(self) -> list[Span]:
        """The part of the history that the model sees before the next message."""

    @abstractmethod
    def new_instance(self) -> Self:
        """An empty context with the same settings."""

    def add(self, c: Span) -> Self:
        """Append one part.

        Args:
            c: A block of text, a message or a model output.

        Returns:
            A new context; this one is unchanged.

        Raises:
            RequestError: ``c`` is of another type, such as a bare string.
        """
        if not isinstance(c, CBlock | Message | ModelOutputThunk):
            raise RequestError(f"cannot add {c!r} to a context; wrap it in Message('user', ...) or CBlock(...)")
        grown = self.new_instance()
        grown._items = (*self._items, c)
        return grown

    def as_list(self, last_n_components: int | None = None) -> list[Span]:
        """All parts in order, or the last ``last_n_components`` of them."""
        if last_n_components is None:
            return list(self._items)
        return list(self._items[max(0, len(self._items) - last_n_components) :])

    def last_output(self) -> ModelOutputThunk | None:
        """The most recent model output; None if there is none."""
        return next((item for item in reversed(self._items) if isinstance(item, ModelOutputThunk)), None)

    def messages(self) -> list[Message]:
        """The chat so far: what a check reads.

        If the last part was generated, these are the messages it answered, to the letter, and the answer. That is
        what the engine's cache holds, whatever window or system prompt was in force.
        """
        last = self._items[-1] if self._items else None
        if isinstance(last, ModelOutputThunk) and last.prompt is not None:
            return [*last.prompt, last.as_message()]
        return [as_message(item) for item in self._unanswered()]

    @abstractmethod
    def _unanswered(self) -> list[Span]:
        """The chat so far where the last part was written by hand."""


class ChatContext(Context):
    """A conversation: every turn is seen by the next.

    Args:
        window_size: Keep only this many parts (system messages are kept besides). None keeps all. A window that
            drops the oldest part moves every token after it, so nothing cached can be reused: prefer None.

    Raises:
        ConfigError: ``window_size`` is no integer, or below 1.
    """

    def __init__(self, *, window_size: int | None = None) -> None:
        super().__init__()
        demand("window_size", window_size, (int, NoneType), ConfigError)
        if window_size is not None and window_size < 1:
            raise ConfigError(f"window_size={window_size} is below 1; use None to keep the whole chat")
        self._window_size = window_size

    def new_instance(self) -> Self:
        """An empty conversation with the same window."""
        return type(self)(window_size=self._window_size)

    def add(self, c: Span) -> Self:
        """Append one part and drop what falls out of the window; see :meth:`Context.add`."""
        grown = super().add(c)
        if self._window_size is not None:
            body = [at for at, item in enumerate(grown._items) if not _is_system(item)]
            if len(body) > self._window_size:  # by one at most: parts come one at a time
                grown._items = grown._items[: body[0]] + grown._items[body[0] + 1 :]
        return grown

    def view_for_generation(self) -> list[Span]:
        """The whole (windowed) conversation."""
        return self.as_list()

    def _unanswered(self) -> list[Span]:
        return self.as_list()


class SimpleContext(Context):
    """Independent turns: the model never sees an earlier one."""

    def new_instance(self) -> Self:
        """An empty context."""
        return type(self)()

    def view_for_generation(self) -> list[Span]:
        """Always empty."""
        return []

    def _unanswered(self) -> list[Span]:
        # The current turn: what was added after the last output that has something after it.
        outputs = [at for at, item in enumerate(self._items[:-1]) if isinstance(item, ModelOutputThunk)]
        return list(self._items[outputs[-1] + 1 if outputs else 0 :])


def _is_system(item: Span) -> bool:
    return isinstance(item, Message) and item.role == "system"
