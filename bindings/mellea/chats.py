"""Mellea's contexts as the engine takes them: messages, and for those it generated itself, their ids."""

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from mellea.backends.utils import to_chat
from mellea.core import Context, ModelOutputThunk
from mellea.core.base import get_audio_from_component, get_images_from_component
from mellea.stdlib.context import ChatContext

from alorakit.engine.errors import RequestError

Message = dict[str, Any]
# Texts that are remembered, and their tokens in all: some 30 MB.
MAX_TEXTS = 4096
MAX_TOKENS = 1 << 20


class GeneratedTexts:
    """The ids of texts that this engine wrote, each by the chat it answered: the latest, where a text came twice.

    Mellea keeps a chat as text. Tokenizing a generated text again may give other ids than it was generated as, and then
    nothing after them is found in the cache. A message that says the same after the same chat gets its own ids back.
    The chat counts, since one text may be generated as different ids, and no session shall see another's.
    """

    def __init__(self, max_texts: int = MAX_TEXTS, max_tokens: int = MAX_TOKENS) -> None:
        """Remember so many texts, of so many tokens together; the longest unused go first."""
        self._ids: OrderedDict[bytes, tuple[int, ...]] = OrderedDict()
        self._max_texts, self._max_tokens, self._num_tokens = max_texts, max_tokens, 0
        self._lock = threading.Lock()  # event loops of several threads may share a backend

    def add(self, chat: Sequence[Message], text: str, token_ids: Sequence[int]) -> None:
        """Remember what the answer to a chat was generated as."""
        *_, key = _digests([*chat, {"role": "assistant", "content": text}])
        with self._lock:
            self._num_tokens -= len(self._ids.pop(key, ()))
            self._ids[key] = tuple(token_ids)
            self._num_tokens += len(token_ids)
            while len(self._ids) > self._max_texts or self._num_tokens > self._max_tokens:
                self._num_tokens -= len(self._ids.popitem(last=False)[1])

    def restore(self, messages: Sequence[Message]) -> list[Message]:
        """The messages, those that are remembered with their ``token_ids``."""
        with self._lock:
            return [self._with_ids(*pair) for pair in zip(messages, _digests(messages), strict=True)]

    def _with_ids(self, message: Message, key: bytes) -> Message:
        if key not in self._ids:
            return message
        self._ids.move_to_end(key)
        return {**message, "token_ids": list(self._ids[key])}


def _digests(messages: Sequence[Message]) -> list[bytes]:
    """A digest of the chat up to and with each message."""
    found, digest = [], b""
    for message in messages:
        said = json.dumps([message.get("role"), message.get("content")], default=str)
        digest = hashlib.blake2b(digest + said.encode(), digest_size=16).digest()
        found.append(digest)
    return found


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
