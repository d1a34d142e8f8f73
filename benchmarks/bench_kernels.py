"""Every kernel alone against the time that its bytes and operations need; see ``benchmarks/gpu.sh``, which runs it.

A case is timed by replaying one CUDA graph that holds many launches, each over buffers of its own: together they are
larger than the L2 cache, so weights and keys come from memory as in a model. Small kernels get what the one before them
left in the cache, here as there; such cases are marked. ``--dry-run`` takes tiny sizes through Triton's interpreter.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from alorakit.kernels import ops
from benchmarks import gpu_plan
from benchmarks.gpu_results import Results, device_slug, versions
from benchmarks.kernel_cases import TINY, Call, Case, Sizes, cases
from benchmarks.kernel_inputs import Inputs
from benchmarks.machine import Machine

RESULTS = Path(__file__).parent / "results"
# Five times the L2 cache of an H100.
ROTATED_BYTES = 256 << 20
MIN_COPIES, MAX_COPIES = 4, 128
POOL_BYTES = 2 << 30
COMPILE_POOL_BYTES = 512 << 20
REPLAYS = 9
MAX_PROCESSES = 8
COMPILE_TIMEOUT_S = 35
# Cases that would begin later are left out.
LIMIT_S = 42


def num_copies(case: Case) -> int:
    """Launches of a graph: until their buffers are larger than the cache."""
    return min(MAX_COPIES, max(MIN_COPIES, -(-ROTATED_BYTES // case.bytes)))


def graph_seconds(calls: list[Call]) -> float:
    """Median seconds of one of the calls, captured in one graph."""
    for call in calls:
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    graph.replay()
    times = []
    for _ in range(REPLAYS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(float(begin.elapsed_time(end)) / 1e3 / len(calls))
    return statistics.median(times)


def call_seconds(call: Call) -> float:
    """Seconds of one call, on the CPU."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure(case: Case, machine: Machine, on_gpu: bool) -> dict[str, object]:
    """One case's figures."""
    copies = num_copies(case) if on_gpu else 1
    calls = [case.make(copy) for copy in range(copies)]
    seconds = graph_seconds(calls) if on_gpu else call_seconds(calls[0])
    limits = {"bytes": case.bytes / machine.bandwidth, "operations": case.flops / machine.matrix_rate}
    bound = max(limits, key=lambda name: limits[name])
    return {
        "us": round(1e6 * seconds, 3),
        "limit, us": round(1e6 * limits[bound], 3),
        "times limit": round(seconds / limits[bound], 3),
        "limited by": bound,
        "MB": round(case.bytes / 1e6, 3),
        "GFLOP": round(case.flops / 1e9, 3),
        "launches in the graph": copies,
        "from memory": copies * case.bytes >= ROTATED_BYTES,
    }


def run(prepared: dict[str, Callable[[], Case]], inputs: Inputs, machine: Machine, results: Results) -> None:
    """Measure all cases; one that fails leaves its error, and the others go on."""
    start = time.perf_counter()
    print(f"{'':44}{'us':>10}{'limit':>10}{'times':>8}   (* in the L2 cache)")
    for name, prepare in prepared.items():
        try:
            if time.perf_counter() - start > LIMIT_S:
                raise TimeoutError(f"left out: {LIMIT_S} s are over")
            found = measure(prepare(), machine, inputs.device.type == "cuda")
            results.figures[name] = found
            mark = " " if found["from memory"] else "*"
            print(f"{name:44}{found['us']:>10}{found['limit, us']:>10}{found['times limit']:>8} {mark}", flush=True)
        except Exception as exc:
            if not isinstance(exc, TimeoutError):
                traceback.print_exc()
            results.errors[name] = f"{type(exc).__name__}: {exc}"
        inputs.keep.clear()
        results.write()


def compile_share(prepared: dict[str, Callable[[], Case]], inputs: Inputs, index: int, count: int) -> int:
    """Call every ``count``-th case once, so that its kernels are compiled; how many failed."""
    failed = 0
    for prepare in list(prepared.values())[index::count]:
        try:
            prepare().make(0)()
        except Exception:
            traceback.print_exc()
            failed += 1
        inputs.keep.clear()
    if inputs.device.type == "cuda":
        torch.cuda.synchronize()
    return failed


def compile_all() -> None:
    """Let processes compile; what they leave is compiled as it comes."""
    count, start = min(MAX_PROCESSES, os.cpu_count() or 1), time.perf_counter()
    command = [sys.executable, "-m", "benchmarks.bench_kernels", "--compile"]
    children = [subprocess.Popen([*command, f"{i}/{count}"], stdout=subprocess.DEVNULL) for i in range(count)]
    for child in children:
        try:
            child.wait(max(1.0, start + COMPILE_TIMEOUT_S - time.perf_counter()))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    print(f"compiled in {count} processes: {time.perf_counter() - start:.0f} s", flush=True)


def main(argv: list[str] | None = None) -> int:
    """Run; 0 if every case could be measured, or there is no GPU to measure on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the results")
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes through Triton's interpreter on the CPU")
    parser.add_argument("--compile", default="", help="only compile: part i/n of the cases")
    args = parser.parse_args(argv)
    if args.dry_run:
        os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported
        plan, sizes, pool = gpu_plan.dry(), TINY, 1 << 20
    elif torch.cuda.is_available():
        plan, sizes = gpu_plan.full(torch.device("cuda", torch.cuda.current_device())), Sizes()
        pool = COMPILE_POOL_BYTES if args.compile else POOL_BYTES
    else:
        print("no CUDA device, so nothing is measured; --dry-run runs tiny sizes through Triton's interpreter")
        return 0
    ops.use_backend("triton")
    if not (args.dry_run or args.compile):
        compile_all()
    with torch.inference_mode():
        machine = Machine(1e10, 1e11) if args.dry_run or args.compile else Machine.measure(plan.device, plan.dtype)
        torch.manual_seed(0)
        inputs = Inputs.of(plan.shape.config, plan.device, plan.dtype, plan.block_size, pool)
        prepared = cases(inputs, sizes)
        if args.compile:
            index, count = map(int, args.compile.split("/"))
            return compile_share(prepared, inputs, index, count)
        results = Results(args.out / f"kernels-{device_slug(plan.device)}.json", dict(versions(plan.device)))
        results.figures["copy bandwidth, GB/s"] = machine.bandwidth / 1e9
        results.figures["matrix rate, TFLOP/s"] = machine.matrix_rate / 1e12
        print(f"{results.about}, {machine}")
        run(prepared, inputs, machine, results)
    print(f"{len(results.errors)} cases without a figure; written to {results.path}")
    return min(1, len(results.errors))


if __name__ == "__main__":
    sys.exit(main())
