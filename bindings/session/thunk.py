"""What the model generated, or is about to."""

from types import NoneType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from alorakit.bindings.session.component import Component
from alorakit.bindings.session.kinds import demand, refuse
from alorakit.engine.errors import StreamError

if TYPE_CHECKING:
    from alorakit.bindings.checks.watch import PartialCheck
    from alorakit.bindings.session.blocks import Message
    from alorakit.bindings.session.flight import Flight
    from alorakit.engine.request import Timing, Usage

S = TypeVar("S")


class ModelOutputThunk(Generic[S]):
    """An output of the model. It may still be under way; then :meth:`avalue` waits for it.

    It becomes computed when it is read to its end: by :meth:`avalue`, by the last :meth:`astream`, or by the session.
    It is generated in the background meanwhile, whoever reads it, and in whichever thread or event loop.

    Args:
        value: The text, without the stop token; None: there is none yet.
        meta: Anything to keep with it.
        parsed_repr: What the answer means to whoever asked (for a chat, a :class:`Message`).
        tool_calls: None: models of this backend call no tools.
        token_ids: The generated ids, stop token included.
        prompt: The messages it answers.
        usage: Token counts of the request.
        finish_reason: Why generation ended: ``"stop"``, ``"length"``, or ``"check"`` (see ``check_every``).
        timing: Seconds of the request.

    Raises:
        RequestError: An argument is of the wrong kind.
    """

    def __init__(
        self,
        value: str | None,
        meta: dict[str, Any] | None = None,
        parsed_repr: S | None = None,
        tool_calls: None = None,
        *,
        token_ids: tuple[int, ...] | None = None,
        prompt: "tuple[Message, ...] | None" = None,
        usage: "Usage | None" = None,
        finish_reason: str | None = None,
        timing: "Timing | None" = None,
    ) -> None:
        demand("value", value, (str, NoneType))
        refuse("ModelOutputThunk", tool_calls=tool_calls)
        self._value, self._computed, self._cancelled = value, value is not None, False
        self.parsed_repr, self.meta, self.tool_calls = parsed_repr, meta or {}, tool_calls
        self.token_ids, self.prompt, self.usage = token_ids, prompt, usage
        self.finish_reason, self.timing = finish_reason, timing
        self._action: Any = None
        self._flight: Flight | None = None
        self._read = 0

    @classmethod
    def under_way(cls, flight: "Flight", action: Any, prompt: "tuple[Message, ...]") -> Self:
        """An output that ``flight`` brings, in answer to ``action``; ``prompt``: the messages it answers."""
        thunk = cls(None, prompt=prompt)
        thunk._flight, thunk._action = flight, action
        return thunk

    @property
    def value(self) -> str | None:
        """The text; None until it is computed."""
        return self._value if self._computed else None

    @value.setter
    def value(self, text: str) -> None:
        self._value = text

    @property
    def cancelled(self) -> bool:
        """Whether :meth:`cancel_generation` cut it short."""
        return self._cancelled

    @property
    def error(self) -> BaseException | None:
        """Why generation failed; None if it did not, or not yet."""
        return self._flight.error if self._flight is not None else None

    @property
    def checks(self) -> "list[PartialCheck]":
        """Checks made of it while it was written (``check_every``), in order."""
        return [] if self._flight is None else list(self._flight.checks)

    @property
    def latest_checks(self) -> "list[PartialCheck]":
        """Those of :attr:`checks` that judged its longest beginning."""
        return [] if self._flight is None else list(self._flight.latest)

    def is_computed(self) -> bool:
        """Whether the whole text is there and has been read."""
        return self._computed

    async def avalue(self) -> str:
        """The whole text, once it is there.

        Raises:
            StreamError: It has no text, and none is generated.
            AlorakitError: Generation failed.
        """
        if not self._computed:
            await self._needs_flight().more()
            self._compute()
        return self._value or ""

    async def astream(self) -> str:
        """The text that is new since the last call, once there is some; one reader at a time.

        With ``ModelOption.STREAM`` it comes piece by piece, otherwise in one piece.

        Raises:
            StreamError: All of it has been read: see :meth:`is_computed`.
            AlorakitError: Generation failed.
        """
        if self._computed:
            raise StreamError("the output is computed and has no more to stream; read its value")
        return await self._next_piece()

    def __aiter__(self) -> Self:
        """The text piece by piece: ``async for piece in output``."""
        return self

    async def __anext__(self) -> str:
        if self._flight is None or (self._flight.ended and self._read == len(self._flight.text) and self._computed):
            raise StopAsyncIteration
        return await self._next_piece()

    async def cancel_generation(self, error: Exception | None = None) -> None:
        """Give the rest up and free what the request holds; what there is of the text becomes the value.

        Args:
            error: Accepted for Mellea's sake.
        """
        if not self._computed and self._flight is not None:
            self._flight.cancel()
            await self._flight.more()
            if self._flight.error is None:
                self._compute()

    async def aclose(self) -> None:
        """As :meth:`cancel_generation`."""
        await self.cancel_generation()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()

    def as_message(self) -> "Message":
        """The output as the assistant's message; see :func:`~alorakit.bindings.session.blocks.as_message`."""
        from alorakit.bindings.session.blocks import as_message

        return as_message(self)

    def _needs_flight(self) -> "Flight":
        if self._flight is None:
            raise StreamError(
                "the output has no value and none is being generated; give one to ModelOutputThunk(value)"
            )
        return self._flight

    async def _next_piece(self) -> str:
        flight = self._needs_flight()
        await flight.more(self._read)
        piece = flight.text[self._read :]
        self._read += len(piece)
        if flight.ended and self._read == len(flight.text):
            self._compute()
        return piece

    def _compute(self) -> None:
        """Take over what the flight brought; the thunk is computed from here on."""
        flight = self._needs_flight()
        if flight.error is not None:
            raise flight.error
        if self._computed:
            return
        self._value, self._cancelled = flight.text, flight.cancelled
        self.token_ids = tuple(flight.token_ids) or None
        if flight.output is not None:
            self.usage, self.timing = flight.output.usage, flight.output.timing
            self.finish_reason = flight.output.finish_reason
        self._computed = True
        if not flight.cancelled:
            self.parsed_repr = self._meant()

    def _meant(self) -> Any:
        """What the text is for whoever asked: a component says so itself, an output goes on as a message."""
        from alorakit.bindings.session.blocks import Message

        if isinstance(self._action, Component):
            return self._action.parse(self)
        if isinstance(self._action, ModelOutputThunk):
            return Message("assistant", str(self), token_ids=self.token_ids)
        return self._value

    def __str__(self) -> str:
        return self.value or ""

    def __repr__(self) -> str:
        return f"ModelOutputThunk({self.value!r})"
