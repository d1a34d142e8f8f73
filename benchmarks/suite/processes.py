"""What needs processes of its own: cold starts, training, and the scripts that have tables of their own."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.harness import Target
from benchmarks.suite.records import Record, Results
from benchmarks.suite.setup import Suite
from benchmarks.training_rows import long_rows, write_rows
from benchmarks.training_run import OURS, PEER, Outcome, Run, measure

ROOT = Path(__file__).resolve().parents[2]
STAGES = ("import", "load", "first token")
_OURS = """
import sys, time; t = [time.perf_counter()]
from alorakit import Engine, SamplingParams; t.append(time.perf_counter())
engine = Engine.from_pretrained(sys.argv[1], dtype=sys.argv[2], device=sys.argv[3]); t.append(time.perf_counter())
engine.generate([list(range(1000, 1064))], SamplingParams(max_tokens=1)); t.append(time.perf_counter())
"""
_THEIRS = """
import sys, time; t = [time.perf_counter()]
import torch; from transformers import AutoModelForCausalLM; from peft import PeftModel; t.append(time.perf_counter())
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=getattr(torch, sys.argv[2])).to(sys.argv[3]).eval()
t.append(time.perf_counter())
ids = torch.tensor([list(range(1000, 1064))], device=sys.argv[3])
model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=1, do_sample=False, pad_token_id=0)
t.append(time.perf_counter())
"""
_END = "\nimport json; print(json.dumps([b - a for a, b in zip(t, t[1:])]))\n"


def cold_start(suite: Suite, results: Results) -> None:
    """A new process: import, load, first token of 64; files are in the page cache."""
    programs = {"alorakit": _OURS + _END, "transformers + PEFT": _THEIRS + _END}
    found: dict[str, list[list[float]]] = {name: [] for name in programs}
    args = [str(suite.engine.model_path), str(suite.dtype).removeprefix("torch."), str(suite.device)]
    for turn in range(suite.sizes.long_rounds + 1):
        for name, program in programs.items():
            done = subprocess.run([sys.executable, "-c", program, *args], capture_output=True, text=True, check=True)
            if turn:  # the first one reads files from the disk
                found[name].append(json.loads(done.stdout.splitlines()[-1]))
    for name, rounds in found.items():
        for index, stage in enumerate(STAGES):
            results.records.append(Record("cold start", name, {"stage": stage}, [each[index] for each in rounds]))
        total = sorted(sum(each) for each in rounds)[len(rounds) // 2]
        print(f"cold start {name}: {total:.2f} s", flush=True)


def training(suite: Suite, results: Results, rows: int, tokens: int, epochs: int, peer_steps: int) -> None:
    """The same rows and settings: the time of an epoch, the memory beyond the loaded model, the loss in the end."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rows.jsonl")
        write_rows(path, long_rows(None, suite.engine.tokenizer, rows, tokens))
        config = {"epochs": epochs, "learning_rate": 3e-4, "rank": 32, "val_fraction": 0.0, "device": str(suite.device)}
        config["dtype"] = str(suite.dtype).removeprefix("torch.")
        runs = {
            who: Run(who, str(suite.engine.model_path), str(path), tokens, config, steps)
            for who, steps in ((OURS, None), (PEER, peer_steps))
        }
        outcomes = {who: measure(run) for who, run in runs.items()}
    ours, peer = outcomes[OURS], outcomes[PEER]
    whole = {OURS: ours.seconds, PEER: sum(peer.step_seconds) / len(peer.step_seconds) * peer.num_steps}
    point: dict[str, int | float | str] = {"rows": rows, "tokens": tokens, "epochs": epochs}
    for who, seconds in whole.items():
        results.records.append(Record("training", who, point, [seconds], note=_memory(outcomes[who])))
    results.scripts["training"] = {
        who: {
            "epoch_s": whole[who] / epochs,
            "growth_bytes": each.growth,
            "prefix_bytes": each.store,
            "loss": each.losses[-1:],
        }
        for who, each in outcomes.items()
    }
    if suite.sizes.whole:
        results.targets.append(Target(f"training, {tokens}-token rows, against {PEER}", whole[PEER] / whole[OURS], 10))


def _memory(outcome: Outcome) -> str:
    return f"{outcome.growth / 2**20:.0f} MiB beyond the loaded model, {outcome.store / 2**20:.0f} MiB of kept prefixes"


def micro(suite: Suite, results: Results) -> None:
    """The micro-benchmarks, by pytest-benchmark: kept as [group, name, median in seconds, interquartile range].

    Raises:
        RuntimeError: One of them failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "micro.json")
        options = ["-q", "-p", "no:cacheprovider", "--benchmark-max-time=0.5", f"--benchmark-json={out}"]
        command = [sys.executable, "-m", "pytest", str(ROOT / "benchmarks" / "micro"), *options]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        print(done.stdout, flush=True)
        if done.returncode:
            raise RuntimeError(f"pytest ended with code {done.returncode}")
        found = json.loads(out.read_text(encoding="utf-8"))["benchmarks"]
    rows = [[each["group"], each["name"], each["stats"]["median"], each["stats"]["iqr"]] for each in found]
    results.scripts["micro"] = {"benchmarks": rows}


def script(
    suite: Suite, results: Results, name: str, module: str, args: Sequence[str], env: Mapping[str, str] | None = None
) -> None:
    """Run a benchmark with a table of its own, and keep what it reports under ``name``: each line that is JSON.

    ``env`` is added to the environment.

    Raises:
        RuntimeError: It failed.
    """
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", *args],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        env=os.environ | dict(env or {}),
    )
    print(done.stdout, flush=True)
    if done.returncode:
        raise RuntimeError(f"{module} ended with code {done.returncode}")
    reports = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    results.scripts[name] = {"reports": reports, "seconds": round(time.perf_counter() - start, 1)}
    for each in reports:
        for what, target in each.get("targets", {}).items():
            results.targets.append(
                Target(f"{name}: {what}", target["value"], target["limit"], target["at_least"], target["unit"])
            )
