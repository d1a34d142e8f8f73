"""Chats in files: a JSON list of messages; generated ones carry the ids they were generated as."""

import json
from pathlib import Path
from typing import Any

from alorakit.bindings.cli.chat_session import ChatSession, Message
from alorakit.bindings.cli.files import write_whole
from alorakit.engine.errors import DataError

ROLES = ("system", "user", "assistant")
_FORM = 'it must be a JSON list of {"role": "user" or "assistant", "content": "..."}, a system message first if any'


def save_chat(session: ChatSession, path: Path) -> None:
    """Write a chat, its system message first.

    Raises:
        TrainingError: The file cannot be written; what was there before is still there.
    """
    text = json.dumps(session.chat(), indent=2, ensure_ascii=False) + "\n"
    write_whole(path.expanduser(), text.encode(), "give another file")


def load_chat(session: ChatSession, path: Path) -> None:
    """Put a file's chat in the place of the session's.

    Ids are used where they spell their message in this model's vocabulary, so that a chat of another model loads too.

    Raises:
        DataError: The file cannot be read, or is no chat; the session's is still there.
    """
    try:
        value = json.loads(path.expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, RuntimeError) as exc:  # RuntimeError: the home folder of nobody
        raise DataError(f"{path}: not readable as JSON ({exc}); {_FORM}") from exc
    if not isinstance(value, list):
        raise DataError(f"{path}: holds no list; {_FORM}")
    messages = [_message(path, number, item) for number, item in enumerate(value, 1)]
    system = str(messages.pop(0)["content"]) if messages and messages[0]["role"] == "system" else None
    if any(message["role"] == "system" for message in messages):
        raise DataError(f"{path}: has a system message that is not the first; {_FORM}")
    vocabulary = session.engine.model_config.vocab_size
    for message in messages:
        if any(token >= vocabulary for token in message.get("token_ids", ())):
            del message["token_ids"]
    session.messages, session.system = messages, system


def _message(path: Path, number: int, value: Any) -> Message:
    if not isinstance(value, dict) or value.get("role") not in ROLES or not isinstance(value.get("content"), str):
        raise DataError(f"{path}: message {number} is {value!r:.80}; {_FORM}")
    ids = value.get("token_ids")
    known = isinstance(ids, list) and all(type(token) is int and token >= 0 for token in ids)
    return {"role": value["role"], "content": value["content"], **({"token_ids": ids} if known else {})}
