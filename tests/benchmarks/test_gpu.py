"""The benchmark for GPUs, dry: a tiny model on the CPU goes through every part of a run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from alorakit import EngineConfig
from benchmarks import gpu_plan, gpu_run, gpu_tests
from benchmarks.gpu_model import INVOCATION, AdapterSet, add_adapters, make_engine, random_ids
from benchmarks.gpu_probe import Probe
from benchmarks.gpu_results import Results
from benchmarks.harness import Target
from benchmarks.machine import Machine

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def results(tmp_path):
    return Results(tmp_path / "results" / "gpu-test.json", {"device": "test"})


@pytest.fixture(scope="module")
def probe():
    with gpu_run.probed(gpu_plan.dry()) as probe:
        yield probe


def test_the_script_runs_every_part_and_writes_what_it_measured(tmp_path):
    command = [ROOT / "benchmarks" / "gpu.sh", "--dry-run", "--no-tests", "--out", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHON": sys.executable})
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.glob("gpu-cpu-*.json")
    found = json.loads(file.read_text())
    assert found["errors"] == {}
    parts = ("decode, 1 rows", "decode, 8 rows", "check, 96", "prefill, 32", "prefill, 48", "kernels, 8 rows")
    assert all(any(name.startswith(part) for name in found["figures"]) for part in parts)
    ratios = {f"decode, {rows} rows, aLoRA on {what}" for rows in (1, 8) for what in ("q/k/v", "all seven")}
    ratios |= {f"decode, 8 rows, 8 aLoRAs on {what}" for what in ("q/k/v", "all seven")}
    wanted = {f"{name}, {how}, of base" for name in ratios for how in ("model pass", "engine step")}
    assert wanted <= found["targets"].keys()
    short = [name for name, target in found["targets"].items() if not target["met"]]
    summary = done.stdout[done.stdout.index("targets met") :]
    assert [name for name in short if f"MISSED  {name}: " in summary] == short


def test_a_part_that_fails_costs_none_of_the_others(monkeypatch, results, tmp_path):
    def fine(probe, plan, machine, results):
        results.add("fine", 1.5)

    def broken(probe, plan, machine, results):
        raise ValueError("no")

    def cut_off(probe, plan, machine, results):
        assert json.loads(results.path.read_text())["figures"]["fine"] == 1.5
        raise KeyboardInterrupt

    monkeypatch.setattr(gpu_run, "parts", lambda plan: {"broken": broken, "fine": fine, "cut": cut_off, "never": fine})
    with pytest.raises(KeyboardInterrupt):
        gpu_run.measure(gpu_plan.dry(), Machine(1e10, 1e11), results, [])
    assert json.loads(results.path.read_text())["errors"] == {"broken": "ValueError: no"}
    assert "FAILED  broken: ValueError: no" in results.summary()


def test_compiling_beforehand_goes_through_the_same_parts_with_one_layer(results):
    plan = gpu_plan.warm(gpu_plan.dry())
    assert plan.shape.config.num_layers == 1
    gpu_run.measure(plan, Machine(1.0, 1.0), results, [], (1, 3))
    done = [name for name in results.figures if name.startswith("seconds")]
    assert done == ["seconds of part decode 8", "seconds of part prefill 48"]
    assert results.errors == {}


def test_the_full_plan_fits_an_80_gb_device():
    plan = gpu_plan.full(torch.device("cuda", 0))
    settings = plan.settings()
    cache = settings.cache_blocks * settings.block_size * plan.shape.kv_bytes
    adapters = sum(each.num * 2 * plan.shape.lora_params(each.rank, each.targets) for each in plan.adapter_sets)
    assert plan.shape.weight_bytes + cache + 2 * adapters < 60e9
    assert settings.max_num_batched_tokens == 8192


def test_a_decode_batch_has_one_row_for_each_prompt_and_can_be_run_again(probe):
    prompts = [random_ids(20 + index, 256, "probe", index) + INVOCATION for index in range(4)]
    batch = probe.decode_batch(prompts, ["qkv-0", "qkv-1", "qkv-0", None])
    assert [entry.num_rows for entry in batch.entries] == [1] * 4
    assert batch.adapters is not None
    assert probe.decode_batch(prompts, [None] * 4).adapters is None
    first, second = probe.run(batch), probe.run(batch)
    assert first.shape == (4, 256)
    torch.testing.assert_close(first, second)
    assert not probe.engine.has_unfinished
    assert (probe.host_syncs(batch), probe.graph_bytes()) == (0, 0)


def test_a_prefill_batch_holds_the_whole_prompt(probe):
    batch = probe.prefill_batch(random_ids(30, 256, "whole"), "lora-0")
    assert [entry.num_rows for entry in batch.entries] == [30]


def test_a_request_that_ends_is_no_decode_step(probe):
    prompt = random_ids(probe.engine.config.max_model_len - 5, 256, "too long")
    with pytest.raises(RuntimeError, match="ended early: length"), probe.decoding([prompt], [None]):
        for _ in range(9):
            probe.step()


def test_random_weights_and_adapters_change_what_is_answered():
    config = gpu_plan.dry().shape.config
    settings = EngineConfig(device="cpu", cache_blocks=8, max_model_len=128)
    with make_engine(config, settings, torch.device("cpu"), torch.float32) as engine:
        add_adapters(engine, AdapterSet("a", 2, ("down_proj",), rank=4))
        assert [info.rank for info in engine.adapters.values()] == [4, 4]
        logits = Probe(engine)
        prompt = random_ids(9, 256) + INVOCATION
        base, adapted = (logits.run(logits.decode_batch([prompt], [name])) for name in (None, "a-1"))
        assert base.isfinite().all()
        assert not torch.equal(base, adapted)
        assert engine.tokenizer.decode(prompt).split("w")[-1] == "3"


def test_tests_are_shared_out_and_every_outcome_is_found(tmp_path):
    file = tmp_path / "test_some.py"
    file.write_text("import pytest\n@pytest.mark.parametrize('i', range(5))\ndef test_x(i):\n    assert i != 3\n")
    found = gpu_tests.run([str(file)], tmp_path / "out", 2, 120.0)
    assert dict(found["outcomes"]) == {"passed": 4, "failed": 1}
    ((name, why),) = found["failures"].items()
    assert name.endswith("test_x[3]")
    assert "assert 3 != 3" in why
    assert found["crashed"] == []
    assert json.loads((tmp_path / "out" / "gpu-tests.json").read_text())["outcomes"] == {"passed": 4, "failed": 1}


def test_a_lost_device_ends_a_share_and_is_told(tmp_path):
    file = tmp_path / "test_some.py"
    file.write_text(
        "def test_a():\n    raise RuntimeError('CUDA: an illegal memory access')\ndef test_b():\n    pass\n"
    )
    found = gpu_tests.run([str(file)], tmp_path / "out", 1, 120.0)
    assert dict(found["outcomes"]) == {"failed": 1}
    assert "lost the device" in found["crashed"][0]


def test_the_devices_tests_need_no_package_that_may_be_missing(monkeypatch):
    monkeypatch.setattr(gpu_tests.importlib.util, "find_spec", lambda name: None)
    files = gpu_tests.test_files(quick=False)
    assert "tests/kernels/test_ops.py" in files
    assert not {"tests/kernels/test_lora.py", "tests/kernels/test_ahead_of_time.py"} & set(files)


def test_a_targets_value_is_kept_and_one_that_is_missed_is_told(results):
    results.add_target(Target("speed", 2.0, 3.0))
    results.add_target(Target("size", 2.0, 3.0, at_least=False))
    results.write()
    assert json.loads(results.path.read_text())["figures"] == {"speed": 2.0, "size": 2.0}
    assert results.summary().splitlines() == ["1 of 2 targets met", "MISSED  speed: 2x, target at least 3x"]
