"""What rows hold, before anything is trained on them: sizes, classes, repeated and contradictory rows, lengths."""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from alorakit.training.answers import Answers, parsed
from alorakit.training.data import Example

MAX_CLASSES = 20
MAX_BUCKETS = 10
MAX_PAIRS = 5
LINE_WIDTH = 110

Pairs = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Lengths:
    """Tokens of some rows, EOS included; of no rows, all 0.

    Attributes:
        total: Of all rows together.
        shortest: Of the shortest row.
        median: Half of the rows have no more.
        p95: 95% of the rows have no more.
        longest: Of the longest row.
    """

    total: int
    shortest: int
    median: int
    p95: int
    longest: int


@dataclass(frozen=True)
class Part:
    """The rows of training, or those of validation.

    Attributes:
        rows: How many.
        tokens: Their lengths.
        histogram: (first length, last length, rows) of each bucket of lengths; the same buckets in both parts.
        classes: Rows of each answer: of each label, or of each value of the answers' field. Both parts list the same
            ones, the 20 commonest of all rows.
        other_classes: How many more answers the part has.
        other_rows: Their rows.
        unparsed: Rows whose text has no such field.
    """

    rows: int
    tokens: Lengths
    histogram: tuple[tuple[int, int, int], ...]
    classes: dict[str, int]
    other_classes: int
    other_rows: int
    unparsed: int


@dataclass(frozen=True)
class Overlap:
    """Rows that read the same as an earlier one.

    Attributes:
        rows: How many.
        lines: Of the first few: (its line, the earlier row's line), each in its own file; 0: from no file.
    """

    rows: int
    lines: Pairs


@dataclass(frozen=True)
class DataReport:
    """What :func:`describe` found. Rows read the same if all before their invocation is the same.

    Attributes:
        kind: ``"label"`` or ``"text"``, as :class:`~alorakit.training.answers.Answers` has it.
        field: The field by which texts are counted, or None.
        training: Rows to train on.
        validation: Rows to validate on.
        duplicates: Training rows that repeat another with its label.
        leaked: Validation rows that are also trained on, with the same label.
        conflicts: Training rows that repeat another with a different label.
        contradicted: Validation rows that are trained on with a different label.
        never_trained: Labels of validation rows that no training row has; empty for texts.
        alike: Groups of labels that differ in case or white space only, each as ``repr`` has it; empty for texts.
    """

    kind: str
    field: str | None
    training: Part
    validation: Part
    duplicates: Overlap
    leaked: Overlap
    conflicts: Overlap
    contradicted: Overlap
    never_trained: tuple[str, ...]
    alike: tuple[tuple[str, ...], ...]

    def lines(self) -> list[str]:
        """A few lines for people."""
        both = (("training", self.training), ("validation", self.validation))
        lines = [f"{name:<11}{_sizes(part)}" for name, part in both if part.rows]
        counts = [
            f"{low}-{high}: {rows}" if low < high else f"{low}: {rows}"
            for low, high, rows in _summed(self.training, self.validation)
        ]
        lines.append(f"{'lengths':<11}{', '.join(counts)} (tokens: rows)")
        lines.append(f"{'labels' if self.kind == 'label' else _short(self.field or 'answers'):<10} {self._classes()}")
        found = (
            (self.duplicates, "training rows repeat another"),
            (self.conflicts, "training rows repeat another with a different label"),
            (self.leaked, "validation rows are trained on too: they tell too little"),
            (self.contradicted, "validation rows are trained on with a different label"),
        )
        lines += [f"{'warning':<11}{overlap.rows} {what}{_places(overlap)}" for overlap, what in found if overlap.rows]
        if self.never_trained:
            lines.append(f"{'warning':<11}validated and never trained: {_shortened(self.never_trained)}")
        for names in self.alike:
            lines.append(f"{'warning':<11}labels that differ in case or white space only: {_shortened(names)}")
        return lines

    def _classes(self) -> str:
        """Counts of training and validation rows for each answer."""
        train, val = self.training, self.validation
        counts = [f"{_short(name)} {rows}+{val.classes[name]}" for name, rows in train.classes.items()]
        more = ""
        if train.other_rows + val.other_rows:
            more += f"; others {train.other_rows}+{val.other_rows}"
        if train.unparsed + val.unparsed:
            more += f"; without it {train.unparsed}+{val.unparsed}"
        return f"{_shortened(counts)}{more} (training+validation)"


def describe(training: Sequence[Example], validation: Sequence[Example], answers: Answers) -> DataReport:
    """Count what the rows hold.

    Args:
        training: Rows to train on, at least one.
        validation: Rows to validate on, if any.
        answers: What their labels are.
    """
    # In the order of their file, so that a row repeats one that is above it.
    training, validation = (sorted(rows, key=lambda example: example.line) for rows in (training, validation))
    lengths = [example.num_tokens for example in (*training, *validation)]
    buckets = _buckets(min(lengths), max(lengths))
    named = [_named(examples, answers) for examples in (training, validation)]
    counted = Counter(name for names in named for name in names if name is not None)
    # By name where equally common, so that a report does not depend on the rows' order.
    listed = sorted(counted, key=lambda name: (-counted[name], name))[:MAX_CLASSES]
    strangers = sorted({example.label for example in validation} - {example.label for example in training})
    seen: dict[tuple[int, ...], dict[str, int]] = {}
    duplicates, conflicts = _repeats(training, seen, remember=True)
    leaked, contradicted = _repeats(validation, seen, remember=False)
    return DataReport(
        kind=answers.kind,
        field=answers.field,
        training=_part(training, named[0], listed, buckets),
        validation=_part(validation, named[1], listed, buckets),
        duplicates=duplicates,
        leaked=leaked,
        conflicts=conflicts,
        contradicted=contradicted,
        never_trained=tuple(strangers) if answers.kind == "label" else (),
        alike=_alike({example.label for example in (*training, *validation)}) if answers.kind == "label" else (),
    )


def digest(*groups: Sequence[Example]) -> str:
    """SHA-256 (hex) of rows' ids, labels and weights, in order and by group: tells whether data is the same."""
    state = hashlib.sha256()
    for group in groups:
        state.update(f"{len(group)}\n".encode())
        for example in group:
            ids = (example.prefix_ids, example.invocation_ids, example.label_ids)
            state.update(json.dumps([*ids, example.label, example.weight]).encode() + b"\n")
    return state.hexdigest()


def _named(examples: Sequence[Example], answers: Answers) -> list[str | None]:
    if answers.kind == "label":
        return [example.label for example in examples]
    return [parsed(example.label, answers.field) for example in examples]


def _part(
    examples: Sequence[Example], named: Sequence[str | None], listed: Sequence[str], buckets: Sequence[range]
) -> Part:
    lengths = sorted(example.num_tokens for example in examples)
    counted = Counter(name for name in named if name is not None)
    classes = {name: counted[name] for name in listed}
    tokens = Lengths(0, 0, 0, 0, 0)
    if lengths:
        p95 = lengths[math.ceil(0.95 * len(lengths)) - 1]
        tokens = Lengths(sum(lengths), lengths[0], int(median(lengths)), p95, lengths[-1])
    return Part(
        rows=len(examples),
        tokens=tokens,
        histogram=tuple((b.start, b.stop - 1, sum(length in b for length in lengths)) for b in buckets),
        classes=classes,
        other_classes=len(counted.keys() - classes.keys()),
        other_rows=counted.total() - sum(classes.values()),
        unparsed=named.count(None),
    )


def _buckets(shortest: int, longest: int) -> list[range]:
    """At most 10 ranges of one round width (1, 2 or 5 times a power of ten) that hold every length."""
    widths = (digit * 10**power for power in range(10) for digit in (1, 2, 5))
    width = next(w for w in widths if longest // w - shortest // w < MAX_BUCKETS)
    first = shortest // width
    return [range(index * width, (index + 1) * width) for index in range(first, longest // width + 1)]


def _repeats(
    examples: Sequence[Example], seen: dict[tuple[int, ...], dict[str, int]], remember: bool
) -> tuple[Overlap, Overlap]:
    """Rows that repeat one of ``seen`` (line by label by prefix): with the same label, and with a different one."""
    same: list[tuple[int, int]] = []
    different: list[tuple[int, int]] = []
    for example in examples:
        labels = seen.get(example.prefix_ids, {})
        if example.label in labels:
            same.append((example.line, labels[example.label]))
        if others := [line for label, line in labels.items() if label != example.label]:
            different.append((example.line, others[0]))
        if remember:
            seen.setdefault(example.prefix_ids, {}).setdefault(example.label, example.line)
    return Overlap(len(same), tuple(same[:MAX_PAIRS])), Overlap(len(different), tuple(different[:MAX_PAIRS]))


def _alike(labels: Iterable[str]) -> tuple[tuple[str, ...], ...]:
    """Groups of labels that are the same but for case and white space."""
    groups: dict[str, list[str]] = {}
    for label in sorted(labels):
        groups.setdefault(" ".join(label.split()).casefold(), []).append(f"{label!r:.40}")
    return tuple(tuple(names) for names in groups.values() if len(names) > 1)


def _summed(training: Part, validation: Part) -> list[tuple[int, int, int]]:
    pairs = zip(training.histogram, validation.histogram, strict=True)
    return [(low, high, rows + more) for (low, high, rows), (_, _, more) in pairs if rows + more]


def _sizes(part: Part) -> str:
    t = part.tokens
    return (
        f"{part.rows} rows, {t.total} tokens; a row has {t.shortest} to {t.longest}, median {t.median}, "
        f"95% up to {t.p95}"
    )


def _places(overlap: Overlap) -> str:
    pairs = [f"{line} as {earlier}" for line, earlier in overlap.lines if line and earlier]
    more = ", …" if len(pairs) < overlap.rows else ""
    return f" (lines {', '.join(pairs)}{more})" if pairs else ""


def _short(text: str) -> str:
    """A label on one line, cut after 40 characters."""
    line = " ".join(text.split())
    return line if len(line) <= 40 else line[:39] + "…"


def _shortened(names: Sequence[str]) -> str:
    """As many of the names, with commas, as fit on a line."""
    shown: list[str] = []
    for name in names:
        if shown and sum(map(len, shown)) + 2 * len(shown) + len(name) > LINE_WIDTH:
            return f"{', '.join(shown)}, … ({len(names) - len(shown)} more)"
        shown.append(name)
    return ", ".join(shown)
