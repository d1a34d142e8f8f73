"""What an adapter answers: one of a set of labels, which is scored, or a text of its own, which is generated."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from alorakit.engine.errors import DataError
from alorakit.engine.parsed import json_object, parsed
from alorakit.training.config import TrainConfig
from alorakit.training.data import Example

__all__ = ["EXTRA_TOKENS", "MAX_LABELS", "Answers", "answers_of", "json_object", "parsed"]

MAX_LABELS = 64
# A generated answer may have so many tokens more than the longest label.
EXTRA_TOKENS = 8


@dataclass(frozen=True)
class Answers:
    """What the rows' labels are.

    Attributes:
        kind: ``"label"`` or ``"text"``.
        labels: Every distinct label, sorted; empty for a text.
        field: Of a text that is a JSON object: the field that accuracy is counted by; None: the whole text.
    """

    kind: Literal["label", "text"]
    labels: tuple[str, ...]
    field: str | None = None


def answers_of(examples: Sequence[Example], config: TrainConfig) -> Answers:
    """Decide by the training rows, as ``TrainConfig.answer`` and ``TrainConfig.field`` say.

    Raises:
        DataError: ``field`` is not in the rows' labels.
    """
    labels = tuple(sorted({example.label for example in examples}))
    rows = [json_object(example.label) for example in examples]
    objects = [row for row in rows if row is not None]
    many = len(labels) > MAX_LABELS or (len(objects) == len(rows) and 2 * len(labels) > len(rows))
    if config.answer == "label" or (config.answer == "auto" and not many and config.field is None):
        return Answers("label", labels)
    if config.field is None:
        names = [name for name, value in objects[0].items() if isinstance(value, str)] if objects else []
        common = [name for name in names if len(objects) == len(rows) and all(name in row for row in objects)]
        return Answers("text", (), next(iter(common), None))
    for example, row in zip(examples, rows, strict=True):
        if row is None or config.field not in row:
            where = f"line {example.line}: " if example.line else ""
            raise DataError(
                f"{where}label {example.label!r:.200} is no JSON object with the field {config.field!r}, by which "
                "accuracy is to be counted; correct it, or name another field"
            )
    return Answers("text", (), config.field)
