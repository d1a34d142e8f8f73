"""What a conversation is made of: text, messages and what the model generated."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from types import NoneType
from typing import Any

from alorakit.bindings.session.component import Component, text_of
from alorakit.bindings.session.kinds import demand, refuse
from alorakit.bindings.session.thunk import ModelOutputThunk
from alorakit.engine.errors import RequestError

ROLES = ("system", "user", "assistant", "tool")


class CBlock:
    """Plain text; in a chat it speaks as the user.

    Args:
        value: The text.
        meta: Anything to keep with it.
        cache: Accepted for Mellea's sake: here every prefix is cached.

    Raises:
        RequestError: The text is no string.
    """

    def __init__(self, value: str | None, meta: dict[str, Any] | None = None, *, cache: bool = False) -> None:
        demand("value", value, (str, NoneType))
        self.value, self.meta, self.cache = value, meta or {}, cache

    def __str__(self) -> str:
        return self.value or ""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.value!r})"


@dataclass(frozen=True)
class Document(Component[str]):
    """A passage that goes with a message.

    Attributes:
        text: The text.
        title: Its title, or None.
        doc_id: What to call it, or None.
    """

    text: str
    title: str | None = None
    doc_id: str | None = None

    def format_for_llm(self) -> str:
        """Number, title and text."""
        name = f" {self.doc_id}" if self.doc_id else ""
        return f"[Document{name}]\n{f'{self.title}: ' if self.title else ''}{self.text}"


@dataclass(frozen=True)
class Message(Component["Message"]):
    """One turn of a chat.

    Attributes:
        role: ``"system"``, ``"user"``, ``"assistant"`` or ``"tool"``.
        content: The text.
        documents: Passages that follow the text; a string is one without title.
        token_ids: The ids the engine generated for this message, stop token included; None if it was written by hand.
            They are spliced into later prompts, so that a cached prefix is found again token by token.
        images, audio, tool_calls, tool_call_id, tool_name, thinking, provider_fields: None. They are Mellea's, and this
            backend has no use for them.

    Raises:
        RequestError: The role is none of the four, the content no string, or something is given that is not supported.
    """

    role: str
    content: str
    images: None = field(default=None, kw_only=True)
    audio: None = field(default=None, kw_only=True)
    documents: Iterable[str | Document] | None = field(default=None, kw_only=True)
    tool_calls: None = field(default=None, kw_only=True)
    tool_call_id: None = field(default=None, kw_only=True)
    tool_name: None = field(default=None, kw_only=True)
    thinking: None = field(default=None, kw_only=True)
    provider_fields: None = field(default=None, kw_only=True)
    token_ids: tuple[int, ...] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise RequestError(f"message role {self.role!r} is unknown; use one of {', '.join(ROLES)}")
        demand("a message's content", self.content, str)
        names = ("images", "audio", "tool_calls", "tool_call_id", "tool_name", "thinking", "provider_fields")
        refuse("Message", **{name: getattr(self, name) for name in names})
        if self.documents is not None:
            documents = tuple(Document(d) if isinstance(d, str) else d for d in self.documents)
            for document in documents:
                demand("a document", document, (str, Document))
            object.__setattr__(self, "documents", documents)  # frozen for everybody else

    def __str__(self) -> str:
        return self.content

    def format_for_llm(self) -> str:
        """The text, and the documents after it."""
        documents = "".join(f"\n{text_of(d)}" for d in self.documents or () if isinstance(d, Document))
        return f"{self.content}\n\n{documents}" if documents else self.content

    def _parse(self, computed: ModelOutputThunk[Any]) -> "Message":
        return Message("assistant", str(computed), token_ids=computed.token_ids)

    def as_dict(self) -> dict[str, Any]:
        """The message as ``Tokenizer.render`` takes it: ``role``, ``content`` and, where known, ``token_ids``."""
        plain: dict[str, Any] = {"role": self.role, "content": self.format_for_llm()}
        if self.token_ids is not None:
            plain["token_ids"] = list(self.token_ids)
        return plain


Span = Component[Any] | CBlock | ModelOutputThunk[Any]


def as_message(span: Span) -> Message:
    """Turn any part of a conversation into a message.

    An output speaks as the assistant, by what it means to whoever asked, and by its own ids where that is its text;
    everything else but a message speaks as the user.

    Raises:
        StreamError: An output is not computed yet.
        RequestError: A component's text is no string.
    """
    if isinstance(span, ModelOutputThunk):
        meant, text = span.parsed_repr, str(span)
        if isinstance(meant, Message):
            return meant
        if meant is not None:
            text = text_of(meant) if isinstance(meant, Component) else str(meant)
        return Message("assistant", text, token_ids=span.token_ids if text == str(span) else None)
    if isinstance(span, Message):
        return span
    return Message("user", text_of(span) if isinstance(span, Component) else str(span))


async def computed(spans: Sequence[Span]) -> None:
    """Wait until every output among some spans and their parts is there; raises what generating one raised."""
    for span in spans:
        if isinstance(span, ModelOutputThunk):
            if not span.is_computed():
                await span.avalue()
        elif isinstance(span, Component):
            await computed(span.parts())
