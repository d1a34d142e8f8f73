"""Which epoch is saved, and when a run stops before its last one; validation's figures are scripted."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from alorakit.engine.errors import ConfigError
from alorakit.training import ExampleList, TrainConfig, train
from alorakit.training.evaluate import Evaluation, evaluate
from alorakit.training.schedule import learning_rate
from tests.training.ended_runs import STATE, WEIGHTS, Killed, Until, figures

Settings = Callable[..., TrainConfig]
Script = Callable[..., None]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    """Give validation's figures: of epoch 1, 2 and so on; before training they are its own."""
    monkeypatch.setattr("alorakit.training.result.training_png", lambda *_: b"")

    def scripted(losses: Sequence[float], accuracies: Sequence[float] | None = None) -> None:
        left = list(zip(losses, accuracies or [0.5] * len(losses), strict=True))

        def found(*args: Any) -> Evaluation:
            real = evaluate(*args)
            if not found_before:
                found_before.append(real)
                return real
            loss, accuracy = left.pop(0)
            return replace(real, loss=loss, accuracy=accuracy)

        found_before: list[Evaluation] = []
        monkeypatch.setattr("alorakit.training.run.evaluate", found)

    return scripted


def test_it_stops_after_epochs_that_are_no_better(
    tiny_base: Path, toy_rows: ExampleList, settings: Settings, script: Script, tmp_path: Path
) -> None:
    losses = [3.0, 1.0, 2.0, 1.0, 0.5]  # as good is not better
    script(losses)
    config = settings(epochs=5, early_stopping=2, dropout=0.1)
    report = train(tiny_base, toy_rows[:8], config, tmp_path / "a")
    assert report.stopped_early
    assert [entry["val_loss"] for entry in report.history] == losses[:4]
    assert (report.best_epoch, report.metrics["val_loss"], len(report.steps)) == (2, 1.0, 4)
    # The second epoch's weights are saved: those of a run that ends there.
    script(losses)
    short = train(tiny_base, toy_rows[:8], replace(config, epochs=2), tmp_path / "short")
    assert not short.stopped_early
    assert (report.path / WEIGHTS).read_bytes() == (short.path / WEIGHTS).read_bytes()


def test_a_better_epoch_begins_the_count_anew(
    tiny_base: Path, toy_rows: ExampleList, settings: Settings, script: Script, tmp_path: Path
) -> None:
    script([3.0, 4.0, 2.0, 5.0, 1.0])
    report = train(tiny_base, toy_rows[:8], settings(epochs=5, early_stopping=2), tmp_path / "a")
    assert (report.stopped_early, report.best_epoch, len(report.history)) == (False, 5, 5)


def test_stopping_early_needs_validation(
    tiny_base: Path, toy_rows: ExampleList, settings: Settings, tmp_path: Path
) -> None:
    config = settings(epochs=3, early_stopping=1, val_fraction=0.0)
    with pytest.raises(ConfigError, match="early_stopping=1 needs validation rows"):
        train(tiny_base, toy_rows[:8], config, tmp_path / "a")


@pytest.mark.parametrize(("best_by", "best"), [("loss", 4), ("accuracy", 3)])
def test_best_by(
    tiny_base: Path,
    toy_rows: ExampleList,
    settings: Settings,
    script: Script,
    tmp_path: Path,
    best_by: str,
    best: int,
) -> None:
    # Of two epochs of the same accuracy, the one with the lower loss.
    script([1.0, 3.0, 2.0, 0.5], [0.5, 0.75, 0.75, 0.25])
    report = train(tiny_base, toy_rows[:8], settings(epochs=4, best_by=best_by), tmp_path / "a")
    assert report.best_epoch == best
    assert report.metrics == {n: report.history[best - 1][n] for n in ("train_loss", "val_loss", "accuracy")}


def test_a_run_that_stopped_early_and_was_killed_before_its_save_goes_on_to_it(
    tiny_base: Path, toy_rows: ExampleList, settings: Settings, script: Script, tmp_path: Path
) -> None:
    config = settings(epochs=5, early_stopping=1)
    script([1.0, 2.0])
    alone = train(tiny_base, toy_rows[:8], config, tmp_path / "alone")
    script([1.0, 2.0])
    with pytest.raises(Killed):
        train(tiny_base, toy_rows[:8], config, tmp_path / "a", Until("save", 1))
    assert (tmp_path / "a" / STATE).exists()
    counted = Until("train")
    resumed = train(tiny_base, toy_rows[:8], config, tmp_path / "a", counted, resume=True)
    assert counted.seen == 0 and resumed.stopped_early
    assert figures(resumed) == figures(alone)
    assert (resumed.path / WEIGHTS).read_bytes() == (alone.path / WEIGHTS).read_bytes()


def test_validation_rows_take_the_place_of_those_held_out(
    tiny_base: Path, toy_rows: ExampleList, settings: Settings, script: Script, tmp_path: Path
) -> None:
    given, held_out = toy_rows[:8], toy_rows[8:12]
    reports = [
        train(tiny_base, given, settings(val_fraction=fraction), tmp_path / str(fraction), validation=held_out)
        for fraction in (0.0, 0.5)
    ]
    assert [(report.num_train, report.num_val) for report in reports] == [(8, 4)] * 2
    assert figures(reports[0]) == figures(reports[1])


def test_the_rate_rises_before_it_goes_its_way() -> None:
    def rates(scheduler: Any, share: float) -> list[float]:
        config = TrainConfig(scheduler=scheduler, learning_rate=1.0, warmup_ratio=share)
        return [learning_rate(config, step, 8) for step in range(8)]

    assert rates("constant", 0.25) == pytest.approx([1 / 3, 2 / 3, *[1.0] * 6])
    assert rates("linear", 0.5) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 0.75, 0.5, 0.25])
    # A share of a step is one step.
    assert rates("cosine", 0.01)[:2] == pytest.approx([0.5, 1.0])
