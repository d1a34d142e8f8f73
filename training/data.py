"""Training rows: JSON lines to token ids, laid out as a check will ask them."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alorakit.engine.errors import CheckError, ConfigError, DataError
from alorakit.engine.layouts import DEFAULT_INVOCATION, LAYOUTS, training_ids
from alorakit.engine.tokenizer import Tokenizer


@dataclass(frozen=True)
class Example:
    """One row: what the model reads, and what it is to answer.

    Attributes:
        prefix_ids: Tokens before the invocation.
        invocation_ids: The invocation.
        label_ids: The label, without EOS.
        label: The label's text.
        layout: Name of the check layout.
        requirement: Whether the prefix holds a requirement.
        weight: Factor of the row's loss.
        line: Line of its file, from 1; 0 if it came from none.
    """

    prefix_ids: tuple[int, ...]
    invocation_ids: tuple[int, ...]
    label_ids: tuple[int, ...]
    label: str
    layout: str = "chat"
    requirement: bool = False
    weight: float = 1.0
    line: int = 0

    @property
    def num_tokens(self) -> int:
        """Length of the row, EOS included."""
        return len(self.prefix_ids) + len(self.invocation_ids) + len(self.label_ids) + 1


class ExampleList(list[Example]):
    """Rows of one file.

    Attributes:
        invocation: The invocation's text.
        truncated: How many rows had their item cut to fit.
    """

    def __init__(self, examples: Iterable[Example], invocation: str, truncated: int) -> None:
        """Collect the rows."""
        super().__init__(examples)
        self.invocation, self.truncated = invocation, truncated


@dataclass(frozen=True)
class _Layout:
    """How rows become ids."""

    tokenizer: Tokenizer
    name: str
    invocation: str
    invocation_ids: tuple[int, ...]
    requirement_field: str | None
    max_length: int

    def example(self, item: str, requirement: str | None, label: str) -> Example:
        message = {"role": "user", "content": item}
        prefix, label_ids = training_ids(
            self.tokenizer, self.name, [message], requirement, label, self.invocation_ids, self.invocation
        )
        return Example(
            tuple(prefix), self.invocation_ids, tuple(label_ids), label, self.name, self.requirement_field is not None
        )

    def fitted(self, item: str, requirement: str | None, label: str) -> tuple[Example, bool]:
        """The row, its item cut from the left if it is too long; and whether it was cut."""
        whole = self.example(item, requirement, label)
        if not whole.label_ids:
            raise DataError(f"label {label!r} has no tokens in this model's vocabulary; choose another label")
        if whole.num_tokens <= self.max_length:
            return whole, False
        best, low, high = self.example("", requirement, label), 0, len(item)
        if best.num_tokens > self.max_length:
            raise DataError(
                f"the row needs {best.num_tokens} tokens even with an empty item, the limit is {self.max_length}; "
                f"raise max_length to at least {best.num_tokens}"
            )
        while high - low > 1:  # the last `low` characters fit, the last `high` do not
            middle = (low + high) // 2
            trial = self.example(item[-middle:], requirement, label)
            if trial.num_tokens <= self.max_length:
                best, low = trial, middle
            else:
                high = middle
        if not item[len(item) - low :].strip():
            raise DataError(f"nothing of the item fits into {self.max_length} tokens; raise max_length")
        return best, True


def load_examples(
    path: str | Path,
    tokenizer: Tokenizer,
    layout: str = "chat",
    invocation: str | None = None,
    requirement_field: str | None = None,
    max_length: int = 1024,
) -> ExampleList:
    """Read training rows, one JSON object a line with strings ``item`` and ``label``.

    Args:
        path: UTF-8 file; blank lines are skipped.
        tokenizer: The base model's.
        layout: How item, requirement, invocation and label are laid out; see :mod:`alorakit.engine.layouts`.
        invocation: Text of the invocation; None: ``DEFAULT_INVOCATION``.
        requirement_field: Field of each row that holds a requirement; None: rows have none.
        max_length: Most tokens of a row, EOS included; a longer row loses the left end of its item.

    Raises:
        ConfigError: Unknown layout, no invocation, or a ``max_length`` below 1.
        DataError: The file or one of its lines cannot be used; the message begins with ``file:line``.
        TokenizerError: The base model has no chat template.
    """
    if layout not in LAYOUTS:
        raise ConfigError(f"layout={layout!r} is not one of {', '.join(LAYOUTS)}")
    if max_length < 1:
        raise ConfigError(f"max_length={max_length!r} must be an integer of at least 1")
    text = DEFAULT_INVOCATION if invocation is None else invocation
    invocation_ids = tuple(tokenizer.encode(text, add_special_tokens=False))
    if not invocation_ids:
        raise ConfigError(f"invocation={text!r} has no tokens; give the text that is to switch the adapter on")
    how = _Layout(tokenizer, layout, text, invocation_ids, requirement_field, max_length)
    examples: list[Example] = []
    num_cut = 0
    for number, raw in _lines(Path(path)):
        try:
            row = _parse(raw)
            requirement = None if requirement_field is None else _text(row, requirement_field)
            example, cut = how.fitted(_text(row, "item"), requirement, _text(row, "label"))
        except (DataError, CheckError) as exc:
            raise DataError(f"{path}:{number}: {exc}") from exc
        examples.append(example)
        num_cut += cut
    if len(examples) < 2:
        found = "no rows" if not examples else "one row"
        raise DataError(f"{path}: {found}; training needs at least 2 rows, better some hundreds")
    return ExampleList(examples, text, num_cut)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Numbered lines (from 1) that are not blank; a byte order mark is dropped."""
    try:
        with path.open("rb") as handle:
            for number, raw in enumerate(handle, start=1):
                line = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
                if line.strip():
                    yield number, line
    except OSError as exc:
        raise DataError(f"{path}: cannot be read ({exc.strerror}); give a JSON lines file") from exc


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
        raise DataError(f"{key!r} is missing; the row has {sorted(row)}")
    value = row[key]
    if not isinstance(value, str):
        raise DataError(f"{key!r} must be a string, found {type(value).__name__}")
    if not value.strip():
        raise DataError(f"{key!r} is empty; every row needs some text there")
    if any("\ud800" <= char <= "\udfff" for char in value):
        raise DataError(f"{key!r} holds half of a surrogate pair; write the whole character")
    return value
