"""What a session remembers. Contexts never change: ``add`` returns a new one."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from types import NoneType
from typing import Any, Self

from alorakit.bindings.session.blocks import CBlock, Message, Span, as_message
from alorakit.bindings.session.component import Component
from alorakit.bindings.session.kinds import demand, refuse
from alorakit.bindings.session.thunk import ModelOutputThunk
from alorakit.engine.errors import ConfigError, RequestError

# As Mellea estimates: four characters to a token, and a quarter of the limit left for what the context does not hold.
_CHARS_PER_TOKEN, _USABLE = 4, 0.75


@dataclass(frozen=True)
class ContextTurn:
    """What was said to the model, and what it answered; None where there is no such part."""

    model_input: Span | None
    output: Span | None


class Context(ABC):
    """An immutable list of what was said, and a view of it for the next generation."""

    def __init__(self) -> None:
        self._items: tuple[Span, ...] = ()

    @abstractmethod
    def view_for_generation(self) -> list[Span]:
        """The part of the history that the model sees before the next message."""

    @classmethod
    def reset_to_new(cls) -> Self:
        """An empty context with default settings."""
        return cls()

    def new_instance(self) -> Self:
        """An empty context with the same settings."""
        return self.reset_to_new()

    @property
    def is_root_node(self) -> bool:
        """Whether nothing has been said."""
        return not self._items

    @property
    def node_data(self) -> Span | None:
        """The last part; None if there is none."""
        return self._items[-1] if self._items else None

    def add(self, c: Span) -> Self:
        """Append one part.

        Args:
            c: A block of text, a message or other component, or a model output.

        Returns:
            A new context; this one is unchanged.

        Raises:
            RequestError: ``c`` is of another type, such as a bare string.
        """
        if not isinstance(c, CBlock | Component | ModelOutputThunk):
            raise RequestError(f"cannot add {c!r} to a context; wrap it in Message('user', ...) or CBlock(...)")
        grown = self.new_instance()
        grown._items = (*self._items, c)
        return grown

    def as_list(self, last_n_components: int | None = None) -> list[Span]:
        """All parts in order, or the last ``last_n_components`` of them."""
        if last_n_components is None:
            return list(self._items)
        return list(self._items[max(0, len(self._items) - last_n_components) :])

    def last_output(self, check_last_n_components: int = 3) -> ModelOutputThunk[Any] | None:
        """The most recent model output among the last ``check_last_n_components`` parts; None if there is none."""
        found = (item for item in reversed(self.as_list(check_last_n_components)) if isinstance(item, ModelOutputThunk))
        return next(found, None)

    def last_turn(self) -> ContextTurn | None:
        """The last question and its answer, or what there is of the two; None if nothing was said."""
        if not self._items:
            return None
        *before, last = self.as_list(2)
        if isinstance(last, ModelOutputThunk) or (isinstance(last, Message) and last.role == "assistant"):
            return ContextTurn(before[0] if before else None, last)
        return ContextTurn(last, None)

    def messages(self) -> list[Message]:
        """The chat so far: what an adapter reads.

        If the last part was generated, these are the messages it answered, to the letter, and the answer. That is
        what the engine's cache holds, whatever window or system prompt was in force.
        """
        last = self.node_data
        if isinstance(last, ModelOutputThunk) and last.prompt is not None:
            return [*last.prompt, last.as_message()]
        return self.written()

    def written(self) -> list[Message]:
        """The chat so far, part by part."""
        return [as_message(item) for item in self._current()]

    @abstractmethod
    def _current(self) -> list[Span]:
        """The parts that belong to the chat so far."""


class ChatContext(Context):
    """A conversation: every turn is seen by the next.

    Args:
        compactor: None; Mellea's compactors are not supported.
        window_size: Keep only this many parts (system messages at the beginning are kept besides). None keeps all. A
            window that drops the oldest part moves every token after it, so nothing cached can be reused: prefer None.
        token_context_length_limit: Let the model see only the newest parts that fit into so many tokens, estimated at
            four characters each, a quarter of them kept free. None: all of them.
        model_id: None; the engine knows its model, and refuses a chat that is longer than its window.

    Raises:
        ConfigError: A number is no integer, or too small.
        RequestError: ``compactor`` or ``model_id`` is given.
    """

    def __init__(
        self,
        *,
        compactor: None = None,
        window_size: int | None = None,
        token_context_length_limit: int | None = None,
        model_id: None = None,
    ) -> None:
        super().__init__()
        refuse("ChatContext", compactor=compactor, model_id=model_id)
        demand("window_size", window_size, (int, NoneType), ConfigError)
        demand("token_context_length_limit", token_context_length_limit, (int, NoneType), ConfigError)
        if window_size is not None and window_size < 0:
            raise ConfigError(f"window_size={window_size} is below 0; use None to keep the whole chat")
        self._window_size, self._token_limit = window_size, token_context_length_limit

    def new_instance(self) -> Self:
        """An empty conversation with the same settings."""
        return type(self)(window_size=self._window_size, token_context_length_limit=self._token_limit)

    def add(self, c: Span) -> Self:
        """Append one part and drop what falls out of the window; see :meth:`Context.add`."""
        grown = super().add(c)
        if self._window_size is not None:
            items = grown._items
            pinned = next((at for at, item in enumerate(items) if not _is_system(item)), len(items))
            grown._items = items[:pinned] + items[max(pinned, len(items) - self._window_size) :]
        return grown

    def view_for_generation(self) -> list[Span]:
        """The conversation, as far as it fits into the limit."""
        if self._token_limit is None:
            return self.as_list()
        left, first = int(self._token_limit * _USABLE), len(self._items)
        for item in reversed(self._items):
            left -= max(1, len(as_message(item).format_for_llm()) // _CHARS_PER_TOKEN)
            if left < 0:
                break
            first -= 1
        return list(self._items[first:])

    def _current(self) -> list[Span]:
        return self.view_for_generation()


class SimpleContext(Context):
    """Independent turns: the model never sees an earlier one."""

    def view_for_generation(self) -> list[Span]:
        """Always empty."""
        return []

    def _current(self) -> list[Span]:
        # The current turn: what was added after the last output that has something after it.
        outputs = [at for at, item in enumerate(self._items[:-1]) if isinstance(item, ModelOutputThunk)]
        return list(self._items[outputs[-1] + 1 if outputs else 0 :])


def _is_system(item: Span) -> bool:
    return isinstance(item, Message) and item.role == "system"
