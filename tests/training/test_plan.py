"""A plan counts what the run then does, and touches nothing."""

import json
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from alorakit.engine.errors import DataError, TrainingError
from alorakit.engine.model_config import ModelConfig
from alorakit.training import ExampleList, TrainConfig, costs, train
from alorakit.training.adapter_folder import check_outfile
from alorakit.training.costs import ModelCosts
from alorakit.training.plan import duration, outfile_problem, plan, readable

Settings = Callable[..., TrainConfig]


@pytest.fixture(autouse=True)
def short_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "MEASURE_SECONDS", 0.001)


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.rglob("*")}


def test_steps_prefixes_and_adapter_are_those_of_the_run(
    tiny_base: Path, toy_rows: ExampleList, settings: Settings, tmp_path: Path
) -> None:
    kv_bytes = ModelCosts(ModelConfig.from_folder(tiny_base), 4).kv_bytes
    longest = max(len(e.prefix_ids) for e in toy_rows)
    config = settings(batch_size=3, grad_accum=2, prefix_memory=3 * longest * kv_bytes)
    planned = plan(tiny_base, toy_rows, config)
    report = train(tiny_base, toy_rows, config, tmp_path / "a")
    assert (planned.steps_per_epoch, planned.steps) == (6, 12)
    assert (planned.data.training.rows, planned.data.validation.rows) == (report.num_train, report.num_val)
    assert planned.prefixes.kept == report.prefixes["kept"] > 0
    assert planned.prefixes.recomputed == report.prefixes["recomputed"] > 0
    assert planned.memory.prefixes == report.prefixes["tokens_kept"] * kv_bytes
    weights = (tmp_path / "a" / "adapter_model.safetensors").stat().st_size
    assert weights - 4096 < 4 * planned.trainable < weights  # the rest is the file's header
    assert planned.memory.adapter == 16 * planned.trainable
    assert planned.parameters == sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(tiny_base).parameters())


def test_a_plan_is_json_and_text(tiny_base: Path, toy_rows: ExampleList, settings: Settings) -> None:
    planned = plan(tiny_base, toy_rows, settings())
    loaded = json.loads(json.dumps(asdict(planned)))
    assert loaded["steps"] == 2 * 4 and loaded["data"]["kind"] == "label"
    parts = [loaded["seconds"][name] for name in ("prefixes", "training", "validation")]
    assert all(part > 0 for part in parts) and sum(parts) == pytest.approx(loaded["seconds"]["total"])
    assert (
        sum(loaded["memory"][n] for n in ("weights", "prefixes", "adapter", "activations"))
        == (loaded["memory"]["total"])
    )
    words = [line.split()[0] for line in planned.lines()]
    assert words == ["model", "steps", "prefixes", "time", "memory"]
    crowded = replace(planned, memory=replace(planned.memory, free=1))
    assert crowded.lines()[-1].startswith("warning")


def test_a_plan_writes_nothing_and_loads_no_weights(
    tiny_base: Path, toy_rows: ExampleList, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("engine.weights.safe_open", "training.prepare.load_decoder"):
        monkeypatch.setattr(f"alorakit.{name}", lambda *_, **__: pytest.fail("loaded"))
    before, state = tree(tiny_base.parent), torch.get_rng_state()
    plan(tiny_base, toy_rows, settings())
    assert tree(tiny_base.parent) == before
    assert torch.equal(torch.get_rng_state(), state)


def test_a_lora_has_no_prefixes_and_trains_on_all_rows(
    tiny_base: Path, toy_rows: ExampleList, settings: Settings
) -> None:
    alora, lora = (plan(tiny_base, toy_rows, settings(adapter=name)) for name in ("alora", "lora"))
    assert lora.prefixes.distinct == lora.memory.prefixes == lora.seconds.prefixes == 0
    invoked = sum(len(e.invocation_ids) + len(e.label_ids) for e in toy_rows)
    assert alora.rows < invoked < lora.rows < sum(e.num_tokens for e in toy_rows)
    assert [line.split()[0] for line in lora.lines()] == ["model", "steps", "time", "memory"]


def test_rows_for_validation_take_the_place_of_the_share(
    tiny_base: Path, toy_rows: ExampleList, settings: Settings
) -> None:
    planned = plan(tiny_base, toy_rows, settings(batch_size=8, grad_accum=1), toy_rows[:3])
    assert (planned.data.training.rows, planned.data.validation.rows, planned.steps_per_epoch) == (40, 3, 5)
    assert planned.data.leaked.rows == 3
    with pytest.raises(DataError, match="no training row has"):
        plan(tiny_base, toy_rows, settings(), [replace(toy_rows[0], label="maybe")])


def test_memory_decides_whether_activations_are_computed_again(
    tiny_base: Path, toy_rows: ExampleList, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    roomy = plan(tiny_base, toy_rows, settings())
    assert not roomy.activation_checkpointing
    asked = plan(tiny_base, toy_rows, settings(activation_checkpointing=True))
    assert asked.activation_checkpointing and asked.memory.activations < roomy.memory.activations
    monkeypatch.setattr("alorakit.training.plan.free_memory", lambda _: roomy.memory.weights + 1)
    assert plan(tiny_base, toy_rows, settings()).activation_checkpointing
    assert not plan(tiny_base, toy_rows, settings(activation_checkpointing=False)).activation_checkpointing


def test_rows_that_do_not_fit_the_model(tiny_base: Path, toy_rows: ExampleList, settings: Settings) -> None:
    for changes, what in (({"prefix_ids": (5,) * 600}, "max_length=512"), ({"label_ids": (99_999,)}, "token id 99999")):
        with pytest.raises(TrainingError, match=what):
            plan(tiny_base, [*toy_rows, replace(toy_rows[0], **changes)], settings())


def test_operations_of_a_forward_pass(tiny_base: Path) -> None:
    model = ModelCosts(ModelConfig.from_folder(tiny_base), 2)
    linear = 2 * (64 * (64 + 32 + 32) + 64 * 64 + 3 * 64 * 96)  # two layers
    assert model.forward(10) == 2 * linear * 10 + 4 * 2 * 64 * 10 * 5
    assert model.forward(4, before=100, read=3) == (
        2 * linear * 4 + 4 * 2 * 64 * 4 * 102 + 2 * 3 * 64 * model.config.vocab_size
    )
    assert model.kv_bytes == 2 * 2 * 2 * 16 * 2
    assert model.rate(5, torch.device("cpu"), torch.float32) > 0


@pytest.mark.parametrize("make", ["file", "below a file", "foreign", "long", "locked"])
def test_an_outfile_that_cannot_be_written(tmp_path: Path, make: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("x")
    paths = {"file": "file", "below a file": "file/a", "foreign": "full", "long": "x" * 300, "locked": "a/b"}
    if make == "locked":  # root may write anywhere
        monkeypatch.setattr(os, "access", lambda path, mode: False)
    before = tree(tmp_path)
    problem = outfile_problem(tmp_path / paths[make])
    assert problem is not None and problem.startswith("outfile ") and "\n" not in problem
    assert tree(tmp_path) == before
    if make != "locked":  # as the run would say
        with pytest.raises(TrainingError):
            check_outfile(tmp_path / paths[make])


def test_an_outfile_that_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    before = tree(tmp_path)
    assert outfile_problem(tmp_path / "a" / "b") is outfile_problem(tmp_path / "empty") is None
    assert tree(tmp_path) == before
    assert "cannot be written" in str(outfile_problem("~nouser-of-this-name/x"))


def test_figures_for_people() -> None:
    assert [readable(n) for n in (0, 1023, 1536, 10 * 1024, 3 * 1024**3, 2**45)] == [
        "0 B", "1023 B", "1.5 KiB", "10 KiB", "3.0 GiB", "32.0 TiB"
    ]  # fmt: skip
    assert [duration(s) for s in (0.04, 9.9, 59, 120, 7200)] == ["0.0 s", "9.9 s", "59 s", "2 min", "2.0 h"]
