"""Timing that holds on a noisy machine: contestants take turns in one process; medians and ratios are reported."""

import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Timings:
    """Seconds of each round of one contestant."""

    name: str
    seconds: list[float]

    @property
    def median(self) -> float:
        """Median of the rounds, in seconds."""
        return statistics.median(self.seconds)


def interleave(contestants: dict[str, Callable[[int], object]], rounds: int, warmup: int = 1) -> dict[str, Timings]:
    """Run every contestant once per round, in turn.

    Args:
        contestants: Name -> function of the round's number; different numbers should mean different inputs.
        rounds: Rounds that count.
        warmup: Rounds before them.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(warmup + rounds):
        for name, run in contestants.items():
            start = time.perf_counter()
            run(turn)
            if turn >= warmup:
                seconds[name].append(time.perf_counter() - start)
    return {name: Timings(name, values) for name, values in seconds.items()}


def report(title: str, timings: dict[str, Timings], baseline: str, **extra: object) -> dict[str, object]:
    """Print a table against ``baseline`` and, as the last line, the same as JSON."""
    base = timings[baseline].median
    print(f"\n{title}\n{'':42}{'median':>10}{'min':>10}{'max':>10}{'x ' + baseline:>22}")
    for timing in timings.values():
        low, high = min(timing.seconds), max(timing.seconds)
        row = f"{timing.name:42}{timing.median:>9.3f}s{low:>9.3f}s{high:>9.3f}s{timing.median / base:>21.1f}x"
        print(row)
    result: dict[str, object] = {
        "title": title,
        "seconds": {name: round(t.median, 4) for name, t in timings.items()},
        "ratio": {name: round(t.median / base, 2) for name, t in timings.items()},
        "rounds": len(timings[baseline].seconds),
        "threads": torch.get_num_threads(),
        "machine": platform.processor() or platform.machine(),
        **extra,
    }
    print(json.dumps(result))
    return result
