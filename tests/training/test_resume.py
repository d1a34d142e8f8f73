"""A run that ends before its time goes on as if it never had: same weights, same figures."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from alorakit.engine.errors import TrainingError
from alorakit.training import Example, ExampleList, ProgressEvent, TrainConfig, train
from tests.training.ended_runs import STATE, WEIGHTS, Killed, Until, contents, figures

Settings = Callable[..., TrainConfig]


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than all the rest of these runs."""
    monkeypatch.setattr("alorakit.training.result.training_png", lambda *_: b"")


@pytest.fixture
def rows(toy_rows: ExampleList) -> list[Example]:
    """Twelve rows of different weights; the labels alternate no further than the toy's do."""
    return [replace(row, weight=1.0 + 0.5 * (i % 3)) for i, row in enumerate(toy_rows[:12])]


@pytest.fixture
def texts(toy_rows: ExampleList) -> list[Example]:
    return [replace(row, label=f'{{"mode": "{row.label}"}}') for row in toy_rows[:12]]


CASES: dict[str, dict[str, Any]] = {
    "alora": {"save_steps": 1, "prefix_memory": 0, "scheduler": "cosine", "warmup_ratio": 0.3},
    "lora": {
        "adapter": "lora",
        "save_steps": 1,
        "early_stopping": 1,
        "best_by": "accuracy",
        "activation_checkpointing": True,
    },
    "each other step": {"save_steps": 2, "val_fraction": 0.0, "weight_decay": 0.1},
    "no steps": {"prefix_memory": 20_000, "early_stopping": 1, "learning_rate": 0.3, "epochs": 3},
}


@pytest.mark.parametrize("case", CASES)
def test_each_step_can_be_the_last_of_a_process(
    tiny_base: Path, rows: list[Example], settings: Settings, tmp_path: Path, case: str
) -> None:
    more: dict[str, Any] = {"dropout": 0.2, "batch_size": 2, "grad_accum": 2, "epochs": 2, **CASES[case]}
    config = settings(**more)
    alone = train(tiny_base, rows, config, tmp_path / "alone")
    for last in range(1, len(alone.steps) + 1):
        outfile = tmp_path / f"{last}"
        with pytest.raises(Killed):
            train(tiny_base, rows, config, outfile, Until(last=last))
        resumed = train(tiny_base, rows, config, outfile, resume=True)
        assert figures(resumed) == figures(alone)
        assert (outfile / WEIGHTS).read_bytes() == (alone.path / WEIGHTS).read_bytes()
        assert not (outfile / STATE).exists()


@pytest.mark.parametrize("stage", ["evaluate", "save"])
def test_validation_and_the_save_can_be_where_it_ends(
    tiny_base: Path, rows: list[Example], settings: Settings, tmp_path: Path, stage: str
) -> None:
    config = settings(dropout=0.2, best_by="accuracy")
    training, validation = rows[:8], rows[8:]
    counted = Until(stage)
    alone = train(tiny_base, training, config, tmp_path / "alone", counted, validation=validation)
    assert (alone.num_train, alone.num_val) == (8, 4)
    # After the last event of a save the run is over.
    for last in range(1, counted.seen + (stage == "evaluate")):
        with pytest.raises(Killed):
            train(tiny_base, training, config, tmp_path / f"{last}", Until(stage, last), validation=validation)
        resumed = train(tiny_base, training, config, tmp_path / f"{last}", validation=validation, resume=True)
        assert figures(resumed) == figures(alone)
        assert (resumed.path / WEIGHTS).read_bytes() == (alone.path / WEIGHTS).read_bytes()


def test_texts_and_settings_that_do_not_matter(
    tiny_base: Path, texts: list[Example], settings: Settings, tmp_path: Path
) -> None:
    how = {"answer": "text", "field": "mode", "dropout": 0.2}
    alone = train(tiny_base, texts, settings(**how, save_steps=1), tmp_path / "alone")
    with pytest.raises(Killed):
        train(tiny_base, texts, settings(**how, save_steps=1), tmp_path / "a", Until(last=3))
    with pytest.raises(Killed):
        train(tiny_base, texts, settings(**how, prefix_memory=0), tmp_path / "a", Until(last=2), resume=True)
    changed = settings(**how, save_steps=3, activation_checkpointing=True)
    resumed = train(tiny_base, texts, changed, tmp_path / "a", resume=True)
    assert figures(resumed) == figures(alone)
    assert (resumed.path / WEIGHTS).read_bytes() == (alone.path / WEIGHTS).read_bytes()


def test_an_older_adapter_stays_until_the_new_one_is_there(
    tiny_base: Path, rows: list[Example], settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "there").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "there")
    train(tiny_base, rows, settings(epochs=1), link)
    old = contents(tmp_path / "there")
    config = settings(save_steps=1)
    with pytest.raises(Killed):
        train(tiny_base, rows, config, link, Until(last=2))
    for name in (STATE, WEIGHTS):  # what a kill may leave
        (tmp_path / "there" / f"{name}.partial").write_bytes(b"half")
    assert old.items() <= contents(tmp_path / "there").items()
    resumed = train(tiny_base, rows, config, link, resume=True)
    alone = train(tiny_base, rows, config, tmp_path / "alone")
    assert figures(resumed) == figures(alone)
    assert contents(tmp_path / "there").keys() == old.keys()
    assert link.is_symlink()


def test_with_nothing_there_it_starts_and_finished_it_only_reports(
    tiny_base: Path, rows: list[Example], settings: Settings, tmp_path: Path
) -> None:
    config = settings(dropout=0.2)
    alone = train(tiny_base, rows, config, tmp_path / "alone")
    first = train(tiny_base, rows, config, tmp_path / "a", resume=True)
    assert figures(first) == figures(alone)
    before = contents(tmp_path / "a")
    counted = Until("train")
    assert train(tiny_base, rows, config, tmp_path / "a", counted, resume=True) == first
    assert counted.seen == 0
    assert contents(tmp_path / "a") == before
    with pytest.raises(TrainingError, match=r"of another run \(seed=42 there, 1 here\); leave out --resume"):
        train(tiny_base, rows, settings(dropout=0.2, seed=1), tmp_path / "a", resume=True)
    (tmp_path / "a" / "training.json").unlink()
    with pytest.raises(TrainingError, match="no checkpoint to resume; leave out --resume"):
        train(tiny_base, rows, config, tmp_path / "a", resume=True)


def test_seconds_are_those_of_all_processes(
    tiny_base: Path, rows: list[Example], settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = [0.0]

    def clock() -> float:
        ticks[0] += 1e-6
        return ticks[0]

    def slow(last: int) -> Callable[[ProgressEvent], None]:
        killed = Until(last=last)

        def tell(event: ProgressEvent) -> None:
            if event.done == 0 or event.stage == "train":
                ticks[0] += {"load": 100.0, "train": 1.0}.get(event.stage, 0.0)
            killed(event)

        return tell

    monkeypatch.setattr("time.perf_counter", clock)
    config = settings(save_steps=1, val_fraction=0.0)
    with pytest.raises(Killed):
        train(tiny_base, rows, config, tmp_path / "a", slow(3))
    # The checkpoint has one loading and two steps of the first process; the third step is lost.
    resumed = train(tiny_base, rows, config, tmp_path / "a", slow(0), resume=True)
    assert len(resumed.steps) == 4
    assert resumed.seconds == pytest.approx(102 + 102, abs=0.5)
