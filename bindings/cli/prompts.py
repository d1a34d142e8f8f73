"""Prompts of ``m alora generate``: arguments, standard input, and files of JSON lines."""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alorakit.bindings.paths import existing
from alorakit.engine.errors import DataError

STDIN = "-"
_FORMS = 'a text, {"prompt": "..."}, {"messages": [{"role": ..., "content": ...}]} or the list of messages alone'


@dataclass(frozen=True)
class Ask:
    """Something to answer: exactly one of the two is given.

    Attributes:
        prompt: A text.
        messages: A chat.
    """

    prompt: str | None = None
    messages: tuple[dict[str, Any], ...] | None = None


def read_asks(prompts: list[str], file: Path | None) -> list[Ask]:
    """Everything that is asked: the arguments, ``-`` being all of standard input, then the file's lines.

    Args:
        prompts: The arguments.
        file: JSON lines, each a text, an object with ``prompt`` or ``messages``, or a list of messages; ``-``: standard
            input; None: no file.

    Raises:
        DataError: Nothing is asked, the file cannot be read, or a line is none of these.
    """
    asks = [Ask(_stdin() if prompt == STDIN else prompt) for prompt in prompts]
    if file is not None:
        asks += _lines(file)
    if not asks:
        raise DataError(f"nothing to answer; give a prompt, {STDIN} for standard input, or --file FILE")
    return asks


def _lines(file: Path) -> Iterator[Ask]:
    for number, line in enumerate(_read(file).splitlines(), 1):
        if line.strip():
            yield _parse(line, f"{file}:{number}")


def _read(file: Path) -> str:
    if str(file) == STDIN:
        return _stdin()
    path = existing(file)
    if path is None or not path.is_file():
        raise DataError(f"{file} is not a file; give JSON lines, each {_FORMS}")
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise DataError(f"{file}: cannot be read as UTF-8 text ({exc}); give JSON lines") from exc


def _stdin() -> str:
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as exc:
        raise DataError(f"standard input is not UTF-8 text ({exc}); convert it") from exc


def _parse(line: str, where: str) -> Ask:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as exc:
        raise DataError(f"{where}: not JSON ({exc}); a line is {_FORMS}") from exc
    if isinstance(value, dict) and len({"prompt", "messages"} & value.keys()) == 1:
        value = value.get("prompt", value.get("messages"))
    if isinstance(value, str) and value:
        return Ask(value)
    if isinstance(value, list) and value and all(_is_message(message) for message in value):
        return Ask(messages=tuple(value))
    raise DataError(f"{where}: {line.strip()!r:.80} is nothing to answer; a line is {_FORMS}")


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("role"), str) and isinstance(value.get("content"), str)
