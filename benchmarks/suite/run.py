"""Runs the suite: ``python -m benchmarks.suite.run [--quick]``, or ``m alora bench [--full]`` in a checkout.

Every part writes its records to the results file as it ends; a part that fails leaves its error there, and the others
go on. Afterwards ``docs/benchmarks.md`` and its pictures are written from the file, unless it was a quick run.
"""

import argparse
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

from alorakit.engine.devices import pick_device, pick_dtype
from benchmarks.gpu_model import write_random_model
from benchmarks.roofline import GRANITE_8B_CONFIG
from benchmarks.suite import checks, processes, programs, traffic
from benchmarks.suite.marks import add_marks
from benchmarks.suite.peers import Peers
from benchmarks.suite.records import MOST_NOISE, Results, about, file_name
from benchmarks.suite.setup import FULL, QUICK, TINY, Sizes, Suite, on_gpu, prepared
from benchmarks.workloads import MODEL

RESULTS = Path(__file__).resolve().parents[1] / "results"
SEED = 0
RANDOM_8B = "random-granite-8b"
MELLEA = Path(sys.prefix) / "mellea"  # where make installs it
# Scripts with tables of their own: name -> module, arguments.
SCRIPTS: dict[str, tuple[str, list[str]]] = {
    "throughput": ("bench_throughput", ["--rounds", "1", "--single-rounds", "3"]),
    "prefill": ("bench_cpu", ["--only", "prefill", "--rounds", "3"]),
    "decode": ("bench_cpu", ["--only", "decode", "--rounds", "3"]),
}
Part = Callable[[Suite, Results], None]


def parts(sizes: Sizes) -> dict[str, Part]:
    """Name -> part, in the order of what matters most; the peers' models are loaded once, when first needed."""
    loaded: list[Peers] = []

    def peers(suite: Suite) -> Peers:
        if not loaded:
            loaded.append(Peers(suite))
        return loaded[0]

    found: dict[str, Part] = {
        "checks": lambda suite, results: checks.by_context(suite, results, peers(suite)),
        "outputs": lambda suite, results: checks.by_output(suite, results, peers(suite)),
        "several": lambda suite, results: checks.several(suite, results),
        "score": lambda suite, results: checks.scored(suite, results, peers(suite)),
        "chain": programs.chain,
        "traffic": traffic.mixed,
    }
    found["training"] = lambda suite, results: processes.training(suite, results, *sizes.training)
    if sizes.whole:
        found |= {"agent": programs.agent, "cold": processes.cold_start}
        found |= {name: partial(processes.script, name=name, module=m, args=a) for name, (m, a) in SCRIPTS.items()}
        path = os.pathsep.join([str(MELLEA), *filter(None, [os.environ.get("PYTHONPATH")])])
        args = ["--dtype", "float32", "--rounds", "1", "--many-rounds", "1"]  # in bfloat16 they part at near ties
        found["mellea"] = partial(
            processes.script, name="mellea", module="bench_mellea", args=args, env={"PYTHONPATH": path}
        )
        found["micro"] = processes.micro
    return found


def run(suite: Suite, results: Results, only: list[str]) -> None:
    """Run the parts whose names begin with one of ``only``, or all."""
    results.probe(suite.device, suite.dtype)
    for name, part in parts(suite.sizes).items():
        if only and not name.startswith(tuple(only)):
            continue
        start = time.perf_counter()
        try:
            part(suite, results)
        except (Exception, SystemExit) as exc:  # the latter: a process of its own failed
            traceback.print_exc()
            results.errors[name] = f"{type(exc).__name__}: {exc}"
        results.part_seconds[name] = time.perf_counter() - start
        results.probe(suite.device, suite.dtype)
        results.write()
    if suite.sizes.whole:
        add_marks(suite, results)
        results.write()


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few sizes and rounds: under 3 minutes on 2 cores")
    parser.add_argument("--tiny", action="store_true", help="to see that it works; the figures say nothing")
    parser.add_argument("--only", default="", help="parts whose names begin so, separated by commas")
    parser.add_argument("--model", default=MODEL, help=f"Hub id or folder; {RANDOM_8B}: random weights of that shape")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument(
        "--out", type=Path, help="folder for the results; default: benchmarks/results, or bench-results"
    )
    args = parser.parse_args(argv)
    if args.out is None:  # a part alone must not take the place of the whole suite's results
        args.out = Path("bench-results") if args.only else RESULTS
    return args


def main(argv: list[str] | None = None) -> int:
    """Run; 0 if every part ran, whether the targets are met or not. The last line is JSON."""
    args = parse(argv)
    sizes = TINY if args.tiny else QUICK if args.quick else FULL
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        device = pick_device(args.device)
        chosen, model = on_gpu(sizes) if device.type == "cuda" else sizes, args.model
        if model == RANDOM_8B:
            model = str(
                write_random_model(Path(folder, "model"), GRANITE_8B_CONFIG, device, pick_dtype(args.dtype, device))
            )
        with prepared(model, chosen, Path(folder), device, args.dtype) as suite:
            results = Results(
                args.out / file_name(suite.device, sizes is not FULL),
                about(suite.device, suite.dtype, suite.machine, args.model, SEED, sizes is not FULL),
            )
            print(json.dumps(results.about), flush=True)
            run(suite, results, [name for name in args.only.split(",") if name])
    for target in results.targets:
        print(target)
    if results.noise > MOST_NOISE:
        print(
            f"the machine was busy: a fixed product's time varied by {results.noise:.0%}; ratios hold better than times"
        )
    met = sum(target.met for target in results.targets)
    print(
        f"{met} of {len(results.targets)} targets met in {time.perf_counter() - start:.0f} s; written to {results.path}"
    )
    for part, why in results.errors.items():
        print(f"FAILED  {part}: {why}")
    if sizes is FULL and results.path is not None and not args.only:
        from benchmarks.suite.report import write_all, write_report

        pages = write_all() if args.out == RESULTS else [write_report(results.path, args.out)]
        print(f"written from it: {', '.join(map(str, pages))}")
    print(
        json.dumps({"results": str(results.path), "met": met, "targets": len(results.targets), "noise": results.noise})
    )
    return min(1, len(results.errors))


if __name__ == "__main__":
    sys.exit(main())
