"""Compares ratios with committed results, and fails if one got worse: ``make bench-check``.

Times of two machines cannot be compared, ratios of contestants that took turns can: for each point that both files
have, how many times a contestant's time is that of the point's yardstick. A new quick run is made unless one is given,
and where something got worse up to two more: decoding hangs on the speed of memory, other work does not, and a shared
machine's memory is slower for minutes at a time. What counts is a point's best ratio.
``python -m benchmarks.suite.compare [committed.json] [new.json] [--loss 0.15]``.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.suite import run
from benchmarks.suite.peers import PEFT_ALORA, PEFT_LORA
from benchmarks.suite.records import Record, Results, load, paired
from benchmarks.suite.report import ROOT
from benchmarks.suite.setup import ALORA, BASE, LORA, SCORE
from benchmarks.training_run import OURS, PEER

LOSS = 0.15
RUNS = 3
# Contestant of ours -> whom it is measured against, the first one that took part.
YARDSTICKS = {
    ALORA: (PEFT_ALORA, BASE),
    LORA: (PEFT_LORA, BASE),
    BASE: (LORA,),
    SCORE: (PEFT_LORA,),
    OURS: (PEER, "transformers + PEFT"),
}


# Latencies of requests that queue follow the rate of their arrivals: the same code differed by half in quick runs.
UNSTEADY = ("traffic",)


def ratios(results: Results) -> dict[str, float]:
    """Name of workload, point and contestants -> our time divided by the yardstick's."""
    found = {}
    for record in results.records:
        if record.seconds and record.contestant in YARDSTICKS and record.workload not in UNSTEADY:
            for other in _yardsticks(results, record):
                found[_name(record, other)] = paired(record, other)
    return found


def _yardsticks(results: Results, record: Record) -> Iterator[Record]:
    for name in YARDSTICKS[record.contestant]:
        # The rate of arrivals follows the machine's speed, so it is no part of the point.
        point = {key: value for key, value in record.point.items() if key != "per_s"}
        if other := results.find(record.workload, name, **point):
            yield other
            return


def _name(record: Record, other: Record) -> str:
    point = ", ".join(f"{key} {value}" for key, value in record.point.items() if key != "per_s")
    return f"{record.workload} ({point}): {record.contestant} / {other.contestant}"


def losses(committed: Results, runs: Sequence[Results], loss: float) -> list[str]:
    """What got worse by more than ``loss`` in all ``runs``, one line each.

    Raises:
        SystemExit: They have no point in common with ``committed``.
    """
    before, found = ratios(committed), [ratios(new) for new in runs]
    now = {name: min(each[name] for each in found if name in each) for name in set().union(*found)}
    both = sorted(before.keys() & now.keys())
    if not both:
        sys.exit(f"{committed.path} and {runs[-1].path} have no point in common; commit the results of a quick run")
    for name in both:
        print(f"{before[name]:8.3f} -> {now[name]:8.3f}  {now[name] / before[name] - 1:+7.1%}  {name}")
    worse = [name for name in both if now[name] > before[name] * (1 + loss)]
    return [f"{name}: {before[name]:.3f} before, {now[name]:.3f} now" for name in worse]


def main(argv: list[str] | None = None) -> int:
    """Compare; 0 if nothing got worse by more than the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "committed", nargs="?", type=Path, help="default: the committed results of this device's quick run"
    )
    parser.add_argument("new", nargs="?", type=Path, help="default: a quick run is made")
    parser.add_argument("--loss", type=float, default=LOSS, help="share by which a ratio may get worse")
    args = parser.parse_args(argv)
    runs: list[Results] = []
    worse: list[str] = []
    for _ in range(1 if args.new else RUNS):
        new = args.new or _quick_run()
        committed = args.committed or ROOT / "benchmarks" / "results" / new.name
        if not committed.is_file():
            sys.exit(
                f"{committed} does not exist: no quick run of this device is committed; name one of benchmarks/results"
            )
        runs.append(load(new))
        worse = losses(load(committed), runs, args.loss)
        for line in worse:
            print(f"WORSE  {line}")
        if not worse:
            break
    print(json.dumps({"committed": str(committed), "new": str(new), "runs": len(runs), "worse": len(worse)}))
    return min(1, len(worse))


def _quick_run() -> Path:
    """A new results file.

    Raises:
        SystemExit: Something of the run failed.
    """
    folder = ROOT / "build" / "bench"
    if run.main(["--quick", "--out", str(folder)]):
        sys.exit("the quick run failed")
    return max(folder.glob("suite-*-quick.json"), key=lambda path: path.stat().st_mtime)


if __name__ == "__main__":
    sys.exit(main())
