"""Measures the engine on a GPU with an 8B-shaped random model; see ``benchmarks/gpu.sh``, which runs it.

``--dry-run`` does the same with a tiny model on the CPU. The results are written after each part; a part that fails
leaves its error in them, and the others go on.
"""

import argparse
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from alorakit import SamplingParams
from benchmarks import gpu_plan
from benchmarks.gpu_model import INVOCATION, add_adapters, make_engine
from benchmarks.gpu_parts import parts
from benchmarks.gpu_plan import Plan
from benchmarks.gpu_probe import Probe
from benchmarks.gpu_results import Results, device_slug, versions
from benchmarks.machine import Machine

RESULTS = Path(__file__).parent / "results"
# Processes that compile at once; each takes a second or two of the GPU's attention and 2 GB of its memory.
MAX_WARM = 12
WARM_TIMEOUT_S = 150


def choose(args: argparse.Namespace) -> Plan:
    """The plan that the arguments ask for."""
    if args.dry_run:
        return gpu_plan.dry()
    if not torch.cuda.is_available():
        sys.exit("no CUDA device; --dry-run runs a tiny model on the CPU")
    device = torch.device("cuda", torch.cuda.current_device())
    plan = gpu_plan.quick(device) if args.quick else gpu_plan.full(device)
    return gpu_plan.warm(plan) if args.warm else plan


@contextmanager
def probed(plan: Plan) -> Iterator[Probe]:
    """An engine with all adapters on the device, so that none moves later."""
    engine = make_engine(plan.shape.config, plan.settings(), plan.device, plan.dtype)
    with engine:
        names = []
        for each in plan.adapter_sets:
            add_adapters(engine, each)
            names += each.names
        for name in names:  # one by one: a batch of all of them is none of the shapes that are measured
            engine.generate(INVOCATION, SamplingParams(max_tokens=1), name)
        yield Probe(engine)


def measure(plan: Plan, machine: Machine, results: Results, only: list[str], share: tuple[int, int] = (0, 1)) -> None:
    """Run the parts whose names begin with one of ``only``; of those every ``share[1]``-th from ``share[0]`` on."""
    index, count = share
    chosen = [(name, part) for name, part in parts(plan).items() if not only or name.startswith(tuple(only))]
    with probed(plan) as probe:
        for name, part in chosen[index::count]:
            start = time.perf_counter()
            try:
                part(probe, plan, machine, results)
            except Exception as exc:
                traceback.print_exc()
                results.errors[name] = f"{type(exc).__name__}: {exc}"
            results.figures[f"seconds of part {name}"] = round(time.perf_counter() - start, 1)
            results.write()


def warm_up(plan: Plan, quick: bool, only: list[str]) -> None:
    """Let processes compile all kernels at once: one after the other, each takes a second or two."""
    count = min(MAX_WARM, os.cpu_count() or 1, len(parts(plan)))
    arguments = [*(["--quick"] if quick else []), *(["--only", ",".join(only)] if only else [])]
    command = [sys.executable, "-m", "benchmarks.gpu_run", *arguments, "--warm"]
    start = time.perf_counter()
    children = [
        subprocess.Popen([*command, f"{index}/{count}"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for index in range(count)
    ]
    for child in children:
        try:
            _, errors = child.communicate(timeout=max(1.0, start + WARM_TIMEOUT_S - time.perf_counter()))
        except subprocess.TimeoutExpired:
            child.kill()
            _, errors = child.communicate()
        if child.returncode:
            print(f"compiling beforehand failed, and is done as it comes:\n{errors[-2000:]}", flush=True)
    print(f"compiled in {count} processes: {time.perf_counter() - start:.0f} s", flush=True)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer sizes and turns")
    parser.add_argument("--dry-run", action="store_true", help="a tiny model on the CPU")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the results")
    parser.add_argument("--only", default="", help="parts whose names begin so, separated by commas")
    parser.add_argument("--warm", default="", help="only compile: part i/n of the parts")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run; 0 if every part ran, whether the targets are met or not."""
    args = parse(argv)
    plan, only = choose(args), [name for name in args.only.split(",") if name]
    results = Results(args.out / f"gpu-{device_slug(plan.device)}.json", {**versions(plan.device), "quick": args.quick})
    if args.warm:
        index, count = map(int, args.warm.split("/"))
        results.path = Path(os.devnull)
        measure(plan, Machine(1.0, 1.0), results, only, (index, count))
        return len(results.errors)
    print(results.about, flush=True)
    machine = Machine(1e10, 1e11) if args.dry_run else Machine.measure(plan.device, plan.dtype)
    results.add("copy bandwidth, GB/s", machine.bandwidth / 1e9)
    results.add("matrix rate, TFLOP/s", machine.matrix_rate / 1e12)
    results.write()
    if plan.device.type == "cuda":
        torch.cuda.empty_cache()
        warm_up(plan, args.quick, only)
    measure(plan, machine, results, only)
    print(f"\n{results.summary()}\nwritten to {results.path}")
    return min(1, len(results.errors))


if __name__ == "__main__":
    sys.exit(main())
