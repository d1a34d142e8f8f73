"""Timing that holds on a noisy machine: contestants take turns in one process; medians and ratios are reported."""

import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch

T = TypeVar("T")

# A contestant that takes so many times its own best was held up by another process (a thread spinning for a core that
# it does not get), not by its work.
ACCIDENT = 3.0


@dataclass(frozen=True)
class Timings:
    """Seconds of each round of one contestant."""

    name: str
    seconds: list[float]

    @property
    def median(self) -> float:
        """Median of the rounds, in seconds."""
        return statistics.median(self.seconds)

    def scaled(self, factor: float) -> "Timings":
        """The rounds of one who did only 1/``factor`` of the work."""
        return Timings(self.name, [seconds * factor for seconds in self.seconds])


@dataclass(frozen=True)
class Target:
    """A number to reach.

    Attributes:
        what: What it is, for the reader.
        value: As measured.
        limit: What it should be.
        at_least: Whether more is better; else less is.
        unit: Written after the number.
    """

    what: str
    value: float
    limit: float
    at_least: bool = True
    unit: str = "x"

    @property
    def met(self) -> bool:
        """Whether it is reached."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def to_json(self) -> dict[str, object]:
        """As reports have it, under ``what``."""
        found = {"value": round(self.value, 4), "limit": self.limit, "met": self.met}
        return {**found, "at_least": self.at_least, "unit": self.unit}

    def __str__(self) -> str:
        """One line of the report."""
        bound = f"at {'least' if self.at_least else 'most'} {self.limit:g}{self.unit}"
        return f"{'met   ' if self.met else 'MISSED'}  {self.what}: {self.value:.4g}{self.unit}, target {bound}"


def take_turns(
    contestants: Mapping[str, Callable[[int], T]], rounds: int, warmup: int = 1, fewer: Mapping[str, int] | None = None
) -> dict[str, list[T]]:
    """Run every contestant once per round, in turn; what each returned in the rounds that count.

    Args:
        contestants: Name -> function of the round's number; different numbers should mean different inputs.
        rounds: Rounds that count.
        warmup: Rounds before them.
        fewer: How many of the rounds a slow contestant takes part in: the first so many; others in all. One that is in
            a single round is not warmed up.
    """
    found: dict[str, list[T]] = {name: [] for name in contestants}
    for turn in range(warmup + rounds):
        for name, run in contestants.items():
            most = (fewer or {}).get(name, rounds)
            if turn >= warmup + most or (turn < warmup and most < min(2, rounds)):
                continue
            value = run(turn)
            if turn >= warmup:
                found[name].append(value)
    return found


def interleave(contestants: Mapping[str, Callable[[int], object]], rounds: int, warmup: int = 1) -> dict[str, Timings]:
    """The seconds that contestants take; arguments are those of :func:`take_turns`."""
    timed = {name: partial(_seconds, run) for name, run in contestants.items()}
    return {name: Timings(name, values) for name, values in take_turns(timed, rounds, warmup).items()}


def _seconds(run: Callable[[int], object], turn: int) -> float:
    start = time.perf_counter()
    run(turn)
    return time.perf_counter() - start


def write_json(path: Path, content: object) -> None:
    """Write a file of results, whole or not at all: a run that is cut off leaves the one before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".tmp")
    beside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    beside.replace(path)


def drop_accidents(timings: dict[str, Timings], uneven: Collection[str] = ()) -> tuple[dict[str, Timings], int]:
    """Leave out, for all contestants alike, the rounds in which one took over ``ACCIDENT`` times its own minimum.

    Args:
        timings: By contestant.
        uneven: Contestants whose work differs from round to round (drafts): a lucky round would be their minimum, and
            their honest ones would be left out, so no round is left out on their account.

    Returns:
        The timings without them, and how many were left out.

    Raises:
        SystemExit: No round is left; the machine is too busy to measure on.
    """
    rounds = range(len(next(iter(timings.values())).seconds))
    limits = {name: ACCIDENT * min(t.seconds) for name, t in timings.items() if name not in uneven}
    kept = [i for i in rounds if all(timings[name].seconds[i] <= limit for name, limit in limits.items())]
    if not kept:
        sys.exit("no round went undisturbed; run the benchmark again when the machine is quieter")
    clean = {name: Timings(name, [t.seconds[i] for i in kept]) for name, t in timings.items()}
    return clean, len(rounds) - len(kept)


def report(
    title: str,
    timings: dict[str, Timings],
    baseline: str,
    dropped: int = 0,
    targets: Sequence[Target] = (),
    limits: Mapping[str, float] | None = None,
    **extra: object,
) -> dict[str, object]:
    """Print a table against ``baseline``, the targets, and, as the last line, the same as JSON.

    Args:
        title: What was measured.
        timings: By contestant; see :func:`drop_accidents`.
        baseline: The contestant that the others are compared with.
        dropped: Rounds that were left out.
        targets: Numbers to reach.
        limits: Seconds that a contestant's bytes and operations need at least, see ``benchmarks.roofline``.
        **extra: More entries for the JSON.
    """
    base = timings[baseline].median
    print(f"\n{title}\n{'':42}{'median':>10}{'min':>10}{'max':>10}{'x ' + baseline:>22}")
    for timing in timings.values():
        low, high = min(timing.seconds), max(timing.seconds)
        row = f"{timing.name:42}{timing.median:>9.3f}s{low:>9.3f}s{high:>9.3f}s{timing.median / base:>21.1f}x"
        print(row)
    rounds = len(timings[baseline].seconds)
    print(f"{rounds} rounds; {dropped} dropped, in which a contestant took over {ACCIDENT:g} times its own minimum")
    if dropped > rounds:
        print("more rounds were dropped than kept: the machine was busy, and another run may say something else")
    for name, limit in (limits or {}).items():
        print(f"{name}: {timings[name].median / limit:.2f} times the {limit:.4f}s that the machine needs at least")
    for target in targets:
        print(target)
    result: dict[str, object] = {
        "title": title,
        "seconds": {name: round(t.median, 4) for name, t in timings.items()},
        "ratio": {name: round(t.median / base, 2) for name, t in timings.items()},
        "rounds": rounds,
        "dropped": dropped,
        "targets": {target.what: target.to_json() for target in targets},
        "times_limit": {name: round(timings[name].median / limit, 3) for name, limit in (limits or {}).items()},
        "threads": torch.get_num_threads(),
        "machine": platform.processor() or platform.machine(),
        **extra,
    }
    print(json.dumps(result), flush=True)
    return result
