"""Training rows: JSON lines to token ids, laid out as a check will ask them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from alorakit.engine.errors import CheckError, ConfigError, DataError, TokenizerError
from alorakit.engine.layouts import DEFAULT_INVOCATION, LAYOUTS, training_ids
from alorakit.engine.tokenizer import Tokenizer
from alorakit.training.rows import Row, read_rows


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
        truncated: How many rows had their item, or a message, cut to fit.
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
    max_length: int

    def example(self, row: Row, messages: Sequence[dict[str, str]]) -> Example:
        prefix, label_ids = training_ids(
            self.tokenizer, self.name, messages, row.requirement, row.label, self.invocation_ids, self.invocation
        )
        return Example(
            prefix_ids=tuple(prefix),
            invocation_ids=self.invocation_ids,
            label_ids=tuple(label_ids),
            label=row.label,
            layout=self.name,
            requirement=row.requirement is not None,
            weight=row.weight,
            line=row.line,
        )

    def fitted(self, row: Row) -> tuple[Example, bool]:
        """The row, its longest message cut from the left if it is too long; and whether it was cut."""
        whole = self.example(row, row.messages)
        if not whole.label_ids:
            raise DataError(f"label {row.label!r} has no tokens in this model's vocabulary; choose another label")
        if whole.num_tokens <= self.max_length:
            return whole, False
        longest = max(range(len(row.messages)), key=lambda index: len(row.messages[index]["content"]))
        content = row.messages[longest]["content"]

        def cut(kept: int) -> Example:
            """The row with the last ``kept`` characters of that message."""
            messages = list(row.messages)
            messages[longest] = {**messages[longest], "content": content[len(content) - kept :]}
            return self.example(row, messages)

        best, low, high = cut(0), 0, len(content)
        if best.num_tokens > self.max_length:
            empty = "its longest message empty" if row.is_chat else "an empty item"
            raise DataError(
                f"the row needs {best.num_tokens} tokens even with {empty}, the limit is {self.max_length}; "
                f"raise max_length to at least {best.num_tokens}"
            )
        while high - low > 1:  # the last `low` characters fit, the last `high` do not
            middle = (low + high) // 2
            trial = cut(middle)
            if trial.num_tokens <= self.max_length:
                best, low = trial, middle
            else:
                high = middle
        if not content[len(content) - low :].strip():
            what = "longest message" if row.is_chat else "item"
            raise DataError(f"nothing of the {what} fits into {self.max_length} tokens; raise max_length")
        return best, True


def load_examples(
    path: str | Path,
    tokenizer: Tokenizer,
    layout: str = "chat",
    invocation: str | None = None,
    requirement_field: str | None = None,
    max_length: int = 1024,
    min_rows: int = 2,
) -> ExampleList:
    """Read rows for training or validation, one JSON object a line.

    A row has a string ``item`` or a list ``messages`` of ``{"role": "system" | "user" | "assistant", "content":
    "..."}``, a string ``label``, and optionally a string ``requirement`` (in every row or in none) and a number
    ``weight`` (1e-6 to 1e6, default 1). Other keys are ignored.

    Args:
        path: UTF-8 file, gzipped if its name ends in ``.gz``; blank lines are skipped.
        tokenizer: The base model's.
        layout: How item, requirement, invocation and label are laid out; see :mod:`alorakit.engine.layouts`. ``chat``
            renders ``messages`` as they are, ``mellea`` puts their contents on lines of their own.
        invocation: Text of the invocation; None: ``DEFAULT_INVOCATION``.
        requirement_field: Field of each row that holds a requirement; None: ``requirement``, if the first row has it.
        max_length: Most tokens of a row, EOS included. A longer row loses the left end of its item, or of the longest
            of its messages.
        min_rows: Fewest rows that will do; 1 for validation.

    Raises:
        ConfigError: Unknown layout, no invocation, no name of a field, or a ``max_length`` below 1.
        DataError: The file or one of its lines cannot be used; the message begins with ``file:line``.
        TokenizerError: The base model has no chat template.
    """
    if layout not in LAYOUTS:
        raise ConfigError(f"layout={layout!r} is not one of {', '.join(LAYOUTS)}")
    if requirement_field is not None and not requirement_field.strip():
        raise ConfigError(f"requirement_field={requirement_field!r} must be the name of a field, or be left out")
    if max_length < 1:
        raise ConfigError(f"max_length={max_length!r} must be an integer of at least 1")
    text = DEFAULT_INVOCATION if invocation is None else invocation
    invocation_ids = tuple(tokenizer.encode(text, add_special_tokens=False))
    if not invocation_ids:
        raise ConfigError(f"invocation={text!r} has no tokens; give the text that is to switch the adapter on")
    how = _Layout(tokenizer, layout, text, invocation_ids, max_length)
    examples: list[Example] = []
    num_cut = 0
    for row in read_rows(Path(path), requirement_field):
        try:
            example, cut = how.fitted(row)
        except (DataError, CheckError, TokenizerError) as exc:
            if isinstance(exc, TokenizerError) and tokenizer.chat_template is None:
                raise  # it is not the row's fault
            raise DataError(f"{path}:{row.line}: {exc}") from exc
        examples.append(example)
        num_cut += cut
    if len(examples) < min_rows:
        found = {0: "no rows", 1: "one row"}.get(len(examples), f"{len(examples)} rows")
        better = ", better some hundreds" if min_rows > 1 else ""
        raise DataError(f"{path}: {found}; give at least {min_rows}{better}")
    return ExampleList(examples, text, num_cut)
