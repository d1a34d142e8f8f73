"""The three things a conversation is made of: text, messages and what the model generated."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alorakit.engine.errors import RequestError

if TYPE_CHECKING:
    from alorakit.engine.request import Usage

ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True)
class CBlock:
    """Plain text; in a chat it speaks as the user.

    Attributes:
        value: The text.
    """

    value: str

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Message:
    """One turn of a chat.

    Attributes:
        role: ``"system"``, ``"user"``, ``"assistant"`` or ``"tool"``.
        content: The text.
        token_ids: The ids the engine generated for this message, stop token included; None if it was written by hand.
            They are spliced into later prompts, so that a cached prefix is found again token by token.

    Raises:
        RequestError: The role is none of the four.
    """

    role: str
    content: str
    token_ids: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise RequestError(f"message role {self.role!r} is unknown; use one of {', '.join(ROLES)}")

    def __str__(self) -> str:
        return self.content

    def as_dict(self) -> dict[str, Any]:
        """The message as ``Tokenizer.render`` takes it: ``role``, ``content`` and, where known, ``token_ids``."""
        plain: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.token_ids is not None:
            plain["token_ids"] = list(self.token_ids)
        return plain


@dataclass(frozen=True)
class ModelOutputThunk:
    """What the model generated. Named as in Mellea, though here it is always computed.

    Attributes:
        value: The text, without the stop token.
        token_ids: The generated ids, stop token included; None if made by hand.
        prompt: The messages it answers; None if made by hand.
        usage: Token counts of the request; None if made by hand.
        finish_reason: Why generation ended (``"stop"``, ``"length"``); None if made by hand.
    """

    value: str
    token_ids: tuple[int, ...] | None = None
    prompt: tuple[Message, ...] | None = None
    usage: "Usage | None" = None
    finish_reason: str | None = None

    def __str__(self) -> str:
        return self.value

    def as_message(self) -> Message:
        """The output as the assistant's message."""
        return Message("assistant", self.value, self.token_ids)


Span = CBlock | Message | ModelOutputThunk


def as_message(span: Span) -> Message:
    """Turn any part of a conversation into a message; a :class:`CBlock` speaks as the user."""
    if isinstance(span, ModelOutputThunk):
        return span.as_message()
    return span if isinstance(span, Message) else Message("user", span.value)
