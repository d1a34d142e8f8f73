"""What the report counts, and the rows that a run refuses."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace

import pytest

from alorakit.engine.errors import ConfigError, DataError
from alorakit.training import Example, TrainConfig
from alorakit.training.answers import Answers, answers_of
from alorakit.training.data_report import describe, digest
from alorakit.training.prepare import check_examples

LABELS = Answers("label", ("no", "yes"))


def row(line: int, label: str = "yes", prefix: int | None = None, length: int = 10, **changes: object) -> Example:
    """A row of ``length`` tokens; rows with the same ``prefix`` read the same."""
    ids = (line if prefix is None else prefix, *([7] * (length - 4)))
    return replace(Example(ids, (1,), (2,), label, line=line), **changes)


def test_sizes_and_classes() -> None:
    training = [row(i, "yes" if i % 4 else "no", length=10 + i) for i in range(1, 101)]
    report = describe(training, [row(200, "no", length=12)], LABELS)
    tokens = report.training.tokens
    assert (tokens.total, tokens.shortest, tokens.median, tokens.p95, tokens.longest) == (6050, 11, 60, 105, 110)
    assert report.training.classes == {"yes": 75, "no": 25}
    assert report.validation.classes == {"yes": 0, "no": 1}
    assert (report.training.rows, report.validation.rows) == (100, 1)
    assert report.training.histogram[0] == (0, 19, 9) and report.training.histogram[1] == (20, 39, 20)
    assert sum(count for *_, count in report.training.histogram) == 100
    assert [count for *_, count in report.validation.histogram] == [1, 0, 0, 0, 0, 0]
    assert json.loads(json.dumps(asdict(report)))["training"]["classes"] == {"yes": 75, "no": 25}
    text = "\n".join(report.lines())
    assert "100 rows, 6050 tokens; a row has 11 to 110, median 60, 95% up to 105" in text
    assert "yes 75+0, no 25+1" in text and "warning" not in text


@pytest.mark.parametrize(
    ("lengths", "buckets"), [((10, 10), [(10, 10)]), ((99, 101), [(99, 99), (100, 100), (101, 101)]), ((4, 90_000), 10)]
)
def test_buckets_are_round_and_few(lengths: tuple[int, int], buckets: object) -> None:
    histogram = describe([row(i, length=n) for i, n in enumerate(lengths, 1)], [], LABELS).training.histogram
    assert sum(count for *_, count in histogram) == 2
    bounds = [(low, high) for low, high, _ in histogram]
    assert len(bounds) == buckets if isinstance(buckets, int) else bounds == buckets


def test_texts_are_counted_by_their_field() -> None:
    training = [row(i, json.dumps({"part": f"p{i % 30:02}", "sure": i})) for i in range(60)] + [row(60, "pump")]
    report = describe(training, [], Answers("text", (), "part"))
    assert len(report.training.classes) == 20 and set(report.training.classes.values()) == {2}
    assert (report.training.other_classes, report.training.other_rows, report.training.unparsed) == (10, 20, 1)
    assert any(line.startswith("part ") and "others 20+0" in line for line in report.lines())
    whole = describe(training, [], Answers("text", (), None)).training
    assert (len(whole.classes), whole.other_classes, whole.unparsed) == (20, 41, 0)


def test_repeats_and_contradictions_are_named() -> None:
    training = [row(1), row(2, prefix=1), row(3, "no", prefix=1), row(4)]
    validation = [row(1, prefix=4), row(2, "no", prefix=4), row(3, prefix=99), row(4, prefix=99)]
    report = describe(training, validation, LABELS)
    assert asdict(report.duplicates) == {"rows": 1, "lines": ((2, 1),)}
    assert asdict(report.conflicts) == {"rows": 1, "lines": ((3, 1),)}
    assert asdict(report.leaked) == {"rows": 1, "lines": ((1, 4),)}
    assert asdict(report.contradicted) == {"rows": 1, "lines": ((2, 4),)}
    warnings = [line for line in report.lines() if line.startswith("warning")]
    assert len(warnings) == 4 and "(lines 2 as 1)" in warnings[0]
    many = describe([row(i, prefix=1) for i in range(1, 30)], [], LABELS).duplicates
    assert (many.rows, len(many.lines)) == (28, 5)


def test_labels_that_only_validation_has() -> None:
    report = describe([row(1), row(2, "no")], [row(3, "maybe")], LABELS)
    assert report.never_trained == ("maybe",)
    assert "validated and never trained: maybe" in report.lines()[-1]


def test_labels_that_look_the_same() -> None:
    rows = [row(1, "yes"), row(2, "no"), row(3, " Yes"), row(4, "yes ")]
    report = describe(rows[:3], rows[3:], LABELS)
    assert report.alike == (("' Yes'", "'yes'", "'yes '"),)
    assert report.lines()[-1].endswith("labels that differ in case or white space only: ' Yes', 'yes', 'yes '")
    assert describe(rows[:2], [], LABELS).alike == describe(rows, [], Answers("text", ())).alike == ()


def test_rows_repeat_those_above_them_however_they_were_shuffled() -> None:
    rows = [row(9, prefix=1), row(3, prefix=1), row(5, prefix=1)]
    assert describe(rows, [], LABELS).duplicates.lines == ((5, 3), (9, 3))


def test_lengths_of_one_token_are_one_number() -> None:
    assert "lengths    10: 2 (tokens: rows)" in describe([row(1), row(2)], [], LABELS).lines()


def test_a_digest_tells_data_apart() -> None:
    a, b = row(1), row(2, "no")
    assert digest([a, b]) == digest([replace(a, line=9), b])  # where a row stood is not what it says
    others = [digest([b, a]), digest([a], [b]), digest([replace(a, weight=2.0), b]), digest([replace(a, label="x"), b])]
    others += [digest([replace(a, label_ids=(3,)), b]), digest([replace(a, prefix_ids=(5,)), b])]
    assert len({digest([a, b]), *others}) == len(others) + 1


def test_rows_that_cannot_train(settings: Callable[..., TrainConfig]) -> None:
    two = [row(1), row(2, "no")]
    check_examples(two, settings(), [row(9)])
    cases = [
        (two[:1], [], DataError, "1 rows"),
        ([row(1), row(2)], [], DataError, "every row has the label 'yes'.*two labels"),
        (two, [row(9, "maybe"), row(12, "no")], DataError, r"no training row has: 'maybe' \(line 9\); add rows"),
        (two, [row(9, layout="mellea")], DataError, "differ in layout"),
        (
            two,
            [row(9, requirement=True)],
            DataError,
            "^validation rows have requirements, training rows have none; give",
        ),
        ([row(1, requirement=True), row(2, "no")], [row(9)], DataError, "having a requirement"),
    ]
    for examples, validation, error, what in cases:
        with pytest.raises(error, match=what):
            check_examples(examples, settings(), validation)
    with pytest.raises(ConfigError, match="fail_labels"):
        check_examples(two, settings(fail_labels=("maybe",)))


@pytest.mark.parametrize(
    ("changes", "what"),
    [({"early_stopping": 2}, "^early_stopping=2 needs"), ({"best_by": "accuracy"}, "^best_by='accuracy' needs")],
)
def test_settings_that_need_validation(
    changes: dict[str, object], what: str, settings: Callable[..., TrainConfig]
) -> None:
    two, config = [row(1), row(2, "no")], settings(val_fraction=0.0, **changes)
    check_examples(two, config, [row(9)])
    with pytest.raises(ConfigError, match=what):
        check_examples(two, config)


def test_texts_need_no_second_label_but_their_field(settings: Callable[..., TrainConfig]) -> None:
    config = settings(answer="text")
    pump = [row(1, '{"part": "pump"}'), row(2, '{"part": "pump"}')]
    check_examples(pump, config, [row(3, '{"part": "rod"}')])
    assert answers_of(pump, config).field == "part"
    with pytest.raises(DataError, match=r"the field 'part', .*'rod' \(line 4\)"):
        check_examples(pump, config, [row(3, '{"part": "rod"}'), row(4, "rod")])
