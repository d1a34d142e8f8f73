"""Rows of a data file: JSON lines, plain or gzipped, each checked on its own and named by its line."""

import gzip
import json
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from alorakit.engine.errors import DataError

ROLES = ("system", "user", "assistant")
REQUIREMENT = "requirement"
# Beyond these, sums of float32 gradients lose a row, or overflow.
WEIGHTS = (1e-6, 1e6)


@dataclass(frozen=True)
class Row:
    """One row as the file has it.

    Attributes:
        line: Its line, from 1.
        messages: The chat to judge, each with ``role`` and ``content``; an ``item`` is one message of the user.
        requirement: What is asked of it; None if the file has no requirements.
        label: The answer to learn.
        weight: Factor of the row's loss, 1e-6 to 1e6.
        is_chat: Whether it came as ``messages``.
    """

    line: int
    messages: tuple[dict[str, str], ...]
    requirement: str | None
    label: str
    weight: float
    is_chat: bool


def read_rows(path: Path, requirement_field: str | None = None) -> Iterator[Row]:
    """Rows of a file, one at a time; blank lines are skipped, and unknown keys ignored.

    Args:
        path: UTF-8 file of JSON lines; compressed if its name ends in ``.gz``.
        requirement_field: Field that holds each row's requirement; None: ``requirement``, if the first row has it.

    Raises:
        DataError: The file cannot be read, or a line of it is no row; then the message begins with ``file:line``.
    """
    field, first = requirement_field, 0
    for line, raw in _lines(path):
        try:
            values = _parse(raw)
            if not first:
                first, field = line, requirement_field or (REQUIREMENT if REQUIREMENT in values else None)
            if requirement_field is None and (REQUIREMENT in values) != (field is not None):
                lacks = "is missing, line {} has one" if field else "is given, line {} has none"
                raise DataError(f"{REQUIREMENT!r} {lacks.format(first)}; give one to every row, or to none")
            row = _row(line, values, field)
        except DataError as exc:
            raise DataError(f"{path}:{line}: {exc}") from exc
        yield row


def _row(line: int, values: dict[str, Any], requirement_field: str | None) -> Row:
    is_chat = "messages" in values
    if is_chat and "item" in values:
        raise DataError("'item' and 'messages' are both given; a row has one of them")
    messages = _messages(values["messages"]) if is_chat else ({"role": "user", "content": _text(values, "item")},)
    requirement = None if requirement_field is None else _text(values, requirement_field)
    return Row(line, messages, requirement, _text(values, "label"), _weight(values.get("weight", 1)), is_chat)


def _messages(value: object) -> tuple[dict[str, str], ...]:
    if not isinstance(value, list) or not value:
        raise DataError("'messages' must be a list of at least one {'role': ..., 'content': ...}")
    messages = []
    for number, message in enumerate(value, start=1):
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            raise DataError(f"message {number} must be an object whose 'role' is one of {', '.join(ROLES)}")
        try:
            messages.append({"role": message["role"], "content": _text(message, "content")})
        except DataError as exc:
            raise DataError(f"message {number}: {exc}") from exc
    return tuple(messages)


def _weight(value: object) -> float:
    try:
        weight = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    except OverflowError:  # an integer of hundreds of digits
        weight = math.inf
    if not WEIGHTS[0] <= weight <= WEIGHTS[1]:  # nor is NaN
        raise DataError(f"'weight' is {value!r:.80}; it must be a number from 0.000001 to 1000000, 1 if left out")
    return weight


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Numbered lines (from 1) that are not blank; a byte order mark is dropped."""
    try:
        with _open(path) as handle:
            for number, raw in enumerate(handle, start=1):
                line = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
                if line.strip():
                    yield number, line
    except (gzip.BadGzipFile, EOFError, zlib.error) as exc:
        raise DataError(f"{path}: not a whole gzip file ({exc}); compress the rows again") from exc
    except OSError as exc:
        raise DataError(f"{path}: cannot be read ({exc.strerror}); give a JSON lines file") from exc


def _open(path: Path) -> IO[bytes] | gzip.GzipFile:
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")


def _parse(raw: bytes) -> dict[str, Any]:
    try:
        row = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as exc:
        raise DataError(f"not UTF-8 (byte {exc.start + 1} of the line); save the file as UTF-8") from exc
    except (ValueError, RecursionError) as exc:
        raise DataError(f"not valid JSON ({exc}); each line must be one JSON object") from exc
    if not isinstance(row, dict):
        raise DataError(f"expected a JSON object with 'item' and 'label', found {type(row).__name__}")
    return row


def _text(row: dict[str, Any], key: str) -> str:
    if key not in row:
        raise DataError(f"{key!r} is missing; the row has {sorted(row)!s:.200}")
    value = row[key]
    if not isinstance(value, str):
        remedy = "; write it as a string, as json.dumps gives it" if key == "label" and value is not None else ""
        raise DataError(f"{key!r} must be a string, found {type(value).__name__}{remedy}")
    if not value.strip():
        raise DataError(f"{key!r} is empty; every row needs some text there")
    if any("\ud800" <= char <= "\udfff" for char in value):
        raise DataError(f"{key!r} holds half of a surrogate pair; write the whole character")
    return value
