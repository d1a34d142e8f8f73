"""Rows of an evaluation, laid out for each model as its adapter was trained."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from alorakit.engine.adapters import AdapterInfo
from alorakit.engine.engine import Engine
from alorakit.engine.errors import ConfigError, DataError
from alorakit.engine.layouts import DEFAULT_INVOCATION
from alorakit.training.answers import Answers, answers_of
from alorakit.training.config import TrainConfig
from alorakit.training.data import Example, load_examples


@dataclass(frozen=True)
class RowSettings:
    """Which rows, and how they are read.

    Attributes:
        data: The file.
        max_length: Most tokens of a row; a longer one loses the left end of what is judged.
        requirement_field: Field of a row that holds its requirement; None: ``requirement``, where the adapter was
            trained with one; of an adapter of unknown making, where the rows have it.
        limit: Most rows; None: all.
        field: Of answers that are JSON objects: the field that accuracy is counted by; None: the adapter's.
    """

    data: Path
    max_length: int = 1024
    requirement_field: str | None = None
    limit: int | None = None
    field: str | None = None


@dataclass(frozen=True)
class Contender:
    """A model that answers the rows.

    Attributes:
        key: ``"adapter"``, ``"base"`` or ``"against"``.
        name: What people call it.
        adapter: Its name in the engine; None: the base model.
        examples: The rows as it is asked.
        labels: What it chooses from; empty if it answers with a text.
        truncated: How many rows of the file had to be cut to fit.
    """

    key: str
    name: str
    adapter: str | None
    examples: tuple[Example, ...]
    labels: tuple[str, ...]
    truncated: int


@dataclass(frozen=True)
class _Layout:
    name: str
    invocation: str
    invocation_ids: tuple[int, ...] | None
    requirements: bool | None


def lay_out(
    engine: Engine, adapters: Sequence[tuple[str, Path]], settings: RowSettings
) -> tuple[Answers, list[Contender]]:
    """Register the adapters and lay out the rows: as ``alorakit.json`` says, in layout ``chat`` without one.

    The base model is asked what the adapter is asked; so is an adapter to compare with that is a LoRA of unknown
    making.

    Args:
        engine: Serves the base model.
        adapters: Name and folder of the adapter, and of another one if there is one to compare with.
        settings: Which rows.

    Returns:
        What the answers are, and the adapter, the base model and the other adapter, in this order.

    Raises:
        DataError: A row cannot be used, has a label that an adapter never learned, or lacks the field.
        ConfigError: ``field`` or ``requirement_field`` says otherwise than the adapter.
        AdapterError: A folder cannot be loaded.
    """
    (name, folder), *others = adapters
    info = engine.add_adapter("adapter", folder)
    layout = _layout(engine, info, None, settings)
    examples, truncated = _load(engine, layout, settings)
    answers = _answers(info, examples, settings)
    contenders = [
        Contender("adapter", name, info.name, examples, answers.labels, truncated),
        Contender("base", "base model", None, examples, answers.labels, truncated),
    ]
    for title, against in others:
        other = engine.add_adapter("against", against)
        examples, truncated = _load(engine, _layout(engine, other, layout, settings), settings)
        labels = _known_labels(other, examples, settings) if answers.kind == "label" else ()
        shown = title if title != name else f"{title} (against)"
        contenders.append(Contender("against", shown, other.name, examples, labels or answers.labels, truncated))
    return answers, contenders


def _layout(engine: Engine, info: AdapterInfo, other: _Layout | None, settings: RowSettings) -> _Layout:
    manifest, ids = info.manifest, info.invocation_tokens
    if manifest is None and other is not None and ids is None:
        return other
    if manifest is not None and settings.requirement_field is not None and not manifest.requirements:
        raise ConfigError(
            f"requirement_field={settings.requirement_field!r}: {info.path} was trained without requirements; leave it "
            "out"
        )
    text = "" if manifest is None else manifest.invocation
    if not text and ids is not None:
        text = engine.tokenizer.decode(ids, skip_special_tokens=False)
    return _Layout(
        "chat" if manifest is None else manifest.layout,
        text or DEFAULT_INVOCATION,
        ids,
        None if manifest is None else manifest.requirements,
    )


def _load(engine: Engine, layout: _Layout, settings: RowSettings) -> tuple[tuple[Example, ...], int]:
    field = settings.requirement_field or ("requirement" if layout.requirements else None)
    how = (engine.tokenizer, layout.name, layout.invocation, field, settings.max_length)
    rows = load_examples(settings.data, *how, min_rows=1)
    if layout.requirements is False and rows[0].requirement:
        raise DataError(f"{settings.data}: rows have requirements, and the adapter was trained without; remove them")
    # Ids decide; a foreign adapter's may spell a text that is tokenized in another way.
    ids = layout.invocation_ids or rows[0].invocation_ids
    return tuple(replace(example, invocation_ids=ids) for example in rows[: settings.limit]), rows.truncated


def _answers(info: AdapterInfo, examples: Sequence[Example], settings: RowSettings) -> Answers:
    manifest = info.manifest
    if manifest is None or (manifest.answer == "label" and not manifest.labels):
        return answers_of(examples, TrainConfig(field=settings.field))
    if manifest.answer == "text":
        # Each row's label must have the field, as in training.
        field = settings.field or manifest.field
        return answers_of(examples, TrainConfig(answer="text", field=field)) if field else Answers("text", (), None)
    if settings.field is not None:
        raise ConfigError(f"field={settings.field!r}: {info.path} answers with one of its labels; leave it out")
    return Answers("label", _known_labels(info, examples, settings))


def _known_labels(info: AdapterInfo, examples: Sequence[Example], settings: RowSettings) -> tuple[str, ...]:
    """The adapter's labels; those of the rows must be among them. Empty if it names none."""
    labels = () if info.manifest is None else info.manifest.labels
    if labels and (unknown := sorted({example.label for example in examples} - set(labels))):
        raise DataError(
            f"{settings.data}: labels {unknown[:8]} are none of those {info.path} was trained with "
            f"({', '.join(labels)[:200]}), so it cannot give them; correct or remove these rows"
        )
    return labels
