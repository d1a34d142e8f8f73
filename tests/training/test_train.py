import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from alorakit.engine.errors import ConfigError, DataError, ModelNotFoundError, TrainingError
from alorakit.engine.manifest import Manifest
from alorakit.training import ExampleList, ProgressEvent, TrainConfig, train
from alorakit.training.prepare import split
from alorakit.training.schedule import learning_rate

Settings = Callable[..., TrainConfig]


@pytest.mark.parametrize("adapter", ["alora", "lora"])
def test_a_toy_is_learned(
    tiny_base: Path, toy_rows: ExampleList, settings: Settings, adapter: str, tmp_path: Path
) -> None:
    events: list[ProgressEvent] = []
    config = settings(
        adapter=adapter, epochs=8, target_modules="all-linear", pass_labels=("yes",), capability="requirement-check"
    )
    report = train(tiny_base, toy_rows, config, tmp_path / "a" / "b", events.append)
    assert report.metrics["val_loss"] < 0.5 * report.before["val_loss"]
    assert report.metrics["accuracy"] >= 0.8
    assert (report.num_train, report.num_val, len(report.history)) == (32, 8, 8)
    assert report.best_epoch == 1 + min(range(8), key=lambda i: report.history[i]["val_loss"])
    assert {e.stage for e in events} >= {"load", "train", "evaluate", "save"}
    assert ("prefix" in {e.stage for e in events}) == (adapter == "alora")
    assert all(0 <= e.done <= e.total for e in events)

    manifest = Manifest.load(tmp_path / "a" / "b")
    assert manifest is not None
    assert (manifest.labels, manifest.pass_labels) == (("one", "yes"), ("yes",))
    assert (manifest.invocation, manifest.layout) == ("<|start_header_id|>check", "chat")
    assert (manifest.base_model, manifest.capability) == (str(tiny_base), "requirement-check")
    assert manifest.metrics == report.metrics
    written = json.loads((report.path / "training.json").read_text())
    assert written["history"] == report.history and written["config"]["adapter"] == adapter
    assert "`yes`" in (report.path / "README.md").read_text()

    base = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, report.path)
    hits = 0
    for example in toy_rows:
        ids = torch.tensor([[*example.prefix_ids, *example.invocation_ids]])
        with torch.no_grad():
            hits += int(model(input_ids=ids).logits[0, -1].argmax()) == example.label_ids[0]
    assert hits >= 32


def test_runs_repeat_by_seed_and_leave_the_generator_alone(
    tiny_base: Path, toy_rows: ExampleList, settings: Settings, tmp_path: Path
) -> None:
    state = torch.get_rng_state()
    losses = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        report = train(tiny_base, toy_rows[:8], settings(seed=seed, epochs=1, dropout=0.3), tmp_path / name)
        losses.append(report.history[0]["train_loss"])
    assert losses[0] == losses[1] != losses[2]
    assert torch.equal(state, torch.get_rng_state())


def test_prefixes_that_do_not_fit_change_nothing(
    tiny_base: Path, toy_rows: ExampleList, settings: Settings, tmp_path: Path
) -> None:
    kept = train(tiny_base, toy_rows, settings(), tmp_path / "kept")
    anew = train(tiny_base, toy_rows, settings(prefix_memory=0), tmp_path / "anew")
    assert kept.prefixes["recomputed"] == 0 and kept.prefixes["kept"] > 0
    assert anew.prefixes["kept"] == anew.prefixes["tokens_kept"] == 0
    for ours, theirs in zip(kept.history, anew.history, strict=True):
        for name in ("train_loss", "val_loss"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4)


def test_batches_and_accumulation_average_alike(
    tiny_base: Path, toy_rows: ExampleList, settings: Settings, tmp_path: Path
) -> None:
    # Labels of one and of several tokens: the mean is over the tokens of a whole group, not over batches' means.
    rows = [
        replace(e, label_ids=e.label_ids * (1 + i % 3), label=e.label * (1 + i % 3)) for i, e in enumerate(toy_rows)
    ]
    losses = [
        [
            entry["train_loss"]
            for entry in train(tiny_base, rows, settings(batch_size=b, grad_accum=g), tmp_path / f"{b}-{g}").history
        ]
        for b, g in ((6, 1), (2, 3), (1, 6))
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert losses[2] == pytest.approx(losses[0], rel=1e-4)


def test_without_validation_the_last_epoch_is_saved(
    tiny_base: Path, toy_rows: ExampleList, settings: Settings, tmp_path: Path
) -> None:
    report = train(tiny_base, toy_rows[:6], settings(val_fraction=0.0, epochs=3), tmp_path / "a")
    assert (report.best_epoch, report.num_train, report.num_val, report.before) == (3, 6, 0, {})
    assert set(report.metrics) == {"train_loss"}


def test_bfloat16_trains(tiny_base: Path, toy_rows: ExampleList, settings: Settings, tmp_path: Path) -> None:
    report = train(tiny_base, toy_rows, settings(dtype="bfloat16", epochs=3), tmp_path / "a")
    assert report.metrics["val_loss"] < report.before["val_loss"]


@pytest.mark.parametrize(("num_rows", "fraction", "num_val"), [(10, 0.2, 2), (10, 0.0, 0), (2, 0.2, 1), (2, 0.9, 1)])
def test_split(num_rows: int, fraction: float, num_val: int) -> None:
    training, validation = split(num_rows, fraction, 7)
    assert len(validation) == num_val
    assert sorted(training + validation) == list(range(num_rows))
    assert split(num_rows, fraction, 7) == (training, validation)


def test_learning_rates() -> None:
    rates = {
        name: [learning_rate(TrainConfig(scheduler=name, learning_rate=1.0), step, 4) for step in range(4)]
        for name in ("constant", "linear", "cosine")
    }
    assert rates["constant"] == [1.0] * 4
    assert rates["linear"] == [1.0, 0.75, 0.5, 0.25]
    assert rates["cosine"] == pytest.approx([0.5 * (1 + math.cos(math.pi * i / 4)) for i in range(4)])


def test_a_loss_that_is_not_finite_stops_the_run(
    tiny_base: Path, toy_rows: ExampleList, settings: Settings, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match=r"at optimizer step \d+ of 2, rows .*learning_rate below 1e\+30") as info:
        train(tiny_base, toy_rows[:8], settings(learning_rate=1e30, epochs=2, val_fraction=0.0), tmp_path / "a")
    assert "\n" not in str(info.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rate", [1e38, 3e38])
@pytest.mark.parametrize("fraction", [0.0, 0.5])
def test_an_adapter_that_is_not_finite_is_not_saved(
    tiny_base: Path, toy_rows: ExampleList, settings: Settings, rate: float, fraction: float, tmp_path: Path
) -> None:
    # One step: no later training loss shows what it did.
    config = settings(learning_rate=rate, epochs=1, val_fraction=fraction, batch_size=8, grad_accum=1)
    with pytest.raises(TrainingError, match=r"is nan at optimizer step 1 of 1, rows .*learning_rate below"):
        train(tiny_base, toy_rows[:8], config, tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_rows_that_do_not_fit_the_model(
    tiny_base: Path, toy_rows: ExampleList, settings: Settings, tmp_path: Path
) -> None:
    row = toy_rows[0]
    other = next(e for e in toy_rows if e.label != row.label)
    cases = [
        ([row], DataError, "1 rows"),
        ([row, replace(row, layout="mellea")], DataError, "differ in layout"),
        ([row, replace(row, invocation_ids=(5,))], DataError, "invocation"),
        ([row, replace(other, prefix_ids=(5,) * 600)], TrainingError, "max_length=512"),
        ([row, replace(other, prefix_ids=(99_999,))], TrainingError, "token id 99999"),
    ]
    for rows, error, what in cases:
        with pytest.raises(error, match=what):
            train(tiny_base, rows, settings(), tmp_path / "a")
    with pytest.raises(ConfigError, match=r"pass_labels has \['maybe'\]"):
        train(tiny_base, toy_rows, settings(pass_labels=("maybe",)), tmp_path / "a")
    with pytest.raises(ModelNotFoundError):
        train(tmp_path, toy_rows, settings(), tmp_path / "a")
    assert list(tmp_path.iterdir()) == []
