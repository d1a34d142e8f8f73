"""The benchmark of single kernels, dry: tiny sizes through Triton's interpreter."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import bench_kernels
from benchmarks.gpu_results import Results
from benchmarks.kernel_cases import TINY, Case, Sizes, cases
from benchmarks.kernel_inputs import Inputs
from benchmarks.machine import Machine
from benchmarks.roofline import GRANITE_8B, decode

ROOT = Path(__file__).resolve().parents[2]
KERNELS = ("linear", "rope_kv_write", "add_norm", "silu_mul", "attention", "lora_delta")


@pytest.fixture
def inputs():
    """The 8B model's, without its numbers."""
    return Inputs.of(GRANITE_8B.config, torch.device("cpu"), torch.bfloat16, 64, 1024)


def command(*args):
    env = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "benchmarks.bench_kernels", "--dry-run", *args]
    return subprocess.run(line, cwd=ROOT, env=env, capture_output=True, text=True)


def test_a_dry_run_calls_every_kernel_and_writes_a_figure_for_each_case(inputs, tmp_path):
    done = command("--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.glob("kernels-cpu-*.json")
    found = json.loads(file.read_text())
    assert found["errors"] == {}
    names = cases(inputs, TINY).keys()
    assert names <= found["figures"].keys()
    assert all(any(name.startswith(kernel) for name in names) for kernel in KERNELS)
    for name in names:
        figure = found["figures"][name]
        assert figure["us"] > 0
        assert figure["times limit"] == pytest.approx(figure["us"] / figure["limit, us"], rel=0.05)
        assert name in done.stdout


def test_compiling_calls_a_share_of_the_cases_and_writes_nothing(tmp_path):
    done = command("--compile", "1/9", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_case_that_fails_costs_none_of_the_others(inputs, tmp_path):
    def broken():
        raise ValueError("no")

    def called_wrongly(copy):
        return lambda: broken()

    results = Results(tmp_path / "kernels-test.json", {})
    prepared = {
        "broken": broken,
        "called wrongly": lambda: Case(1000, 10, called_wrongly),
        "fine": lambda: Case(1000, 10, lambda copy: lambda: None),
    }
    bench_kernels.run(prepared, inputs, Machine(1e9, 1e9), results)
    found = json.loads(results.path.read_text())
    assert found["errors"] == dict.fromkeys(["broken", "called wrongly"], "ValueError: no")
    assert found["figures"]["fine"]["limit, us"] == 1.0
    assert found["figures"]["fine"]["limited by"] == "bytes"


def test_the_bytes_of_a_layers_kernels_are_those_of_a_decode_step(inputs):
    found, layers = cases(inputs, Sizes()), GRANITE_8B.config.num_layers
    products = [found[f"linear {name}, 1 rows"]().bytes for name in ("qkv", "o", "gate_up", "down")]
    step = decode(GRANITE_8B, [1024])
    assert layers * sum(products) + found["linear head, 1 rows"]().bytes == pytest.approx(
        step.weights + step.head, rel=2e-3
    )
    rank = 32
    shrinks = sum(found[f"linear {name}, 1 rows, 1 of rank {rank}"]().bytes for name in ("qkv", "o", "gate_up", "down"))
    finish = {"rope_kv_write": 6144, "add_norm": 4096, "silu_mul": 25600}
    for kernel, width in finish.items():
        more = found[f"{kernel}, 1 rows, 1 of rank {rank}"]().bytes - found[f"{kernel}, 1 rows"]().bytes
        parts = {"rope_kv_write": 3, "add_norm": 1, "silu_mul": 2}[kernel]
        assert more == rank * (2 * width + 4 * parts)
    a = (3 * 4096 + 4096 + 2 * 4096 + 12800) * rank * 2
    assert shrinks - sum(products) == a


def test_what_attention_reads_and_computes(inputs):
    found, kv = cases(inputs, Sizes()), 2 * 1024 * 2  # bytes of a token's keys and values in one layer
    check = found["attention check, 23 rows x 32768"]()
    assert check.bytes == (32768 + 23) * kv + 2 * 23 * 4096 * 2
    assert check.flops == 4 * 4096 * sum(32768 + row + 1 for row in range(23))
    assert found["attention decode, 64 rows x 1024"]().bytes == 64 * (1024 * kv + 2 * 4096 * 2)
    assert found["attention decode, 64 rows, one prefix of 8192"]().bytes == (8192 + 64) * kv + 64 * 2 * 4096 * 2
    prefill = found["attention prefill, 2048 rows"]()
    assert prefill.flops == 4 * 4096 * 2048 * 2049 // 2


@pytest.mark.parametrize(("nbytes", "copies"), [(1000, 128), (50 << 20, 6), (1 << 30, 4)])
def test_a_graph_has_launches_enough_to_exceed_the_cache(nbytes, copies):
    assert bench_kernels.num_copies(Case(nbytes, 0, lambda copy: lambda: None)) == copies


def test_without_a_gpu_nothing_is_measured(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert bench_kernels.main(["--out", str(tmp_path)]) == 0
    assert list(tmp_path.iterdir()) == []
    assert "no CUDA device" in capsys.readouterr().out
