"""Mellea's contexts as the engine takes them: messages."""

from collections.abc import Sequence
from typing import Any

from mellea.backends.utils import to_chat
from mellea.core import Context, ModelOutputThunk
from mellea.core.base import get_audio_from_component, get_images_from_component
from mellea.stdlib.context import ChatContext

from alorakit.bindings.history import Message
from alorakit.engine.errors import RequestError


def refuse_media(spans: Sequence[Any]) -> None:
    """See that nothing carries an image or a sound.

    Raises:
        RequestError: Something does; the engine reads text only.
    """
    for span in spans:
        for kind, found in (("images", get_images_from_component(span)), ("audio", get_audio_from_component(span))):
            if found is not None:
                raise RequestError(f"{type(span).__name__} carries {kind}, and this engine reads text only; drop them")


def refuse_unwritten(spans: Sequence[Any]) -> None:
    """See that every answer is whole.

    Raises:
        RequestError: One is still being written.
    """
    if any(isinstance(span, ModelOutputThunk) and not span.is_computed() for span in spans):
        raise RequestError("the chat holds an answer that is still being written; await it first (thunk.avalue())")


def linear(context: Context) -> list[Any]:
    """What a context shows the model.

    Raises:
        RequestError: It is no chat context, or its history is not linear.
    """
    view = context.view_for_generation() if context.is_chat_context else None
    if view is None:
        raise RequestError(
            f"a {type(context).__name__} is no linear chat, and this backend renders chats; use ChatContext or "
            "SimpleContext"
        )
    return list(view)


def conversation(action: Any, context: Context, formatter: Any, system_prompt: str | None) -> list[Message]:
    """The chat that ``action`` asks to go on with, as Mellea's own backends render it.

    Raises:
        RequestError: The context is no linear chat, or something in it is not text or not whole.
    """
    spans = [*linear(context), action]
    refuse_unwritten(spans)
    refuse_media(spans)
    return [dict(message) for message in to_chat(action, context, formatter, system_prompt)]


def as_messages(spans: Sequence[Any], formatter: Any, system_prompt: str | None) -> list[Message]:
    """Parts of a chat as messages, as :func:`conversation` has them.

    Raises:
        RequestError: Something is not text.
    """
    *before, last = spans
    context = ChatContext()
    for span in before:
        context = context.add(span)
    return conversation(last, context, formatter, system_prompt)
