"""Chats kept as text: the ids that this engine generated their messages with."""

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

Message = dict[str, Any]
# Texts that are remembered, and their tokens in all: some 30 MB.
MAX_TEXTS = 4096
MAX_TOKENS = 1 << 20


class GeneratedTexts:
    """The ids of texts that this engine wrote, each by the chat it answered: the latest, where a text came twice.

    Programs and clients keep a chat as text. Tokenizing a generated text again may give other ids than it was
    generated as, and then nothing after them is found in the cache. A message that says the same after the same chat
    gets its own ids back. The chat counts, since one text may be generated as different ids, and no session shall see
    another's.
    """

    def __init__(self, max_texts: int = MAX_TEXTS, max_tokens: int = MAX_TOKENS) -> None:
        """Remember so many texts, of so many tokens together; the longest unused go first."""
        self._ids: OrderedDict[bytes, tuple[int, ...]] = OrderedDict()
        self._max_texts, self._max_tokens, self._num_tokens = max_texts, max_tokens, 0
        self._lock = threading.Lock()  # event loops of several threads may share one

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
        said = json.dumps([message.get(key) for key in ("role", "content", "tool_calls")], default=str)
        digest = hashlib.blake2b(digest + said.encode(), digest_size=16).digest()
        found.append(digest)
    return found
