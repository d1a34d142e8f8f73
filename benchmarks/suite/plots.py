"""Pictures of a run, SVG and PNG."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from benchmarks.suite.peers import LLAMA, LLAMA_ALORA, LLAMA_Q4, PEFT_ALORA, PEFT_LORA
from benchmarks.suite.records import Results
from benchmarks.suite.setup import ALORA, BASE, LORA

matplotlib.rcParams["svg.hashsalt"] = "alorakit"  # the ids in a picture are then the same in every run
STYLE: dict[str, tuple[str, str]] = {
    ALORA: ("#0b6e4f", "o"),
    BASE: ("#6c757d", "s"),
    LORA: ("#c8553d", "^"),
    PEFT_ALORA: ("#3d6fb6", "D"),
    PEFT_LORA: ("#8a2d6b", "v"),
    LLAMA: ("#b08900", "P"),
    LLAMA_ALORA: ("#5d4a00", "X"),
    LLAMA_Q4: ("#d9b44a", "p"),
}
LIMIT = "#222222"
Draw = Callable[[Any, Results], None]


def draw_all(results: Results, docs: Path, suffix: str = "") -> list[Path]:
    """Draw every picture that the records allow, ``suffix`` at the end of its name; their paths."""
    docs.mkdir(parents=True, exist_ok=True)
    single: dict[str, Draw] = {"check": _check, "several": _several, "training": _training}
    ran = {record.workload for record in results.records}
    single = {name: draw for name, draw in single.items() if name in ran}
    made = []
    for name, draw in single.items():
        figure, axes = plt.subplots(figsize=(7.2, 4.2), layout="constrained")
        draw(axes, results)
        made += _save(figure, docs, f"bench-{name}{suffix}")
    figure, grid = plt.subplots(1, len(single), figsize=(4.4 * len(single), 3.9), layout="constrained", squeeze=False)
    for axes, draw in zip(grid[0], single.values(), strict=True):
        draw(axes, results)
    about = results.about
    figure.suptitle(
        f"{about['model'].rsplit('/')[-1]}, {about['dtype']}, {about['processor']}, {about['cores']} cores", fontsize=10
    )
    return made + _save(figure, docs, f"bench-overview{suffix}")


def _save(figure: Any, docs: Path, name: str) -> list[Path]:
    paths = [docs / f"{name}.svg", docs / f"{name}.png"]
    for path in paths:
        # Without a date, and with the salt above, the file is the same for the same results.
        figure.savefig(path, dpi=130, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)
    return paths


def _lines(axes: Any, results: Results, workload: str, along: str) -> None:
    for who, (color, marker) in STYLE.items():
        records = [r for r in results.records if r.workload == workload and r.contestant == who and r.seconds]
        if records:
            x = [r.point[along] for r in records]
            axes.plot(
                x, [1e3 * r.median for r in records], color=color, marker=marker, label=who, linewidth=1.8, markersize=5
            )
    limits = [
        (r.point[along], r.limit)
        for r in results.records
        if r.workload == workload and r.contestant == ALORA and r.limit
    ]
    if limits:
        axes.plot(
            *zip(*((x, 1e3 * y) for x, y in limits), strict=True),
            color=LIMIT,
            linestyle=":",
            label="the machine's limit, aLoRA",
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(sorted({r.point[along] for r in results.records if r.workload == workload}))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0f}" if value < 1000 else f"{value / 1000:.0f}k")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_ylabel("milliseconds")
    axes.grid(True, which="major", alpha=0.3)
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * (high / low) ** 0.5)  # room for the legend
    axes.legend(fontsize=7, frameon=False, loc="upper left")


def _check(axes: Any, results: Results) -> None:
    _lines(axes, results, "check", "context")
    axes.set_title("A check after a context", fontsize=10)
    axes.set_xlabel("tokens of context")


def _several(axes: Any, results: Results) -> None:
    _lines(axes, results, "several", "checks")
    axes.set_title("Checks of one document, asked together", fontsize=10)
    axes.set_xlabel("checks, each by an adapter of its own")


def _training(axes: Any, results: Results) -> None:
    found = results.scripts.get("training", {})
    names = list(found)
    seconds = [found[name]["epoch_s"] for name in names]
    memory = [(found[name]["growth_bytes"] + found[name]["prefix_bytes"]) / 2**30 for name in names]
    places = range(len(names))
    axes.bar([p - 0.2 for p in places], seconds, 0.4, color=STYLE[ALORA][0], label="seconds an epoch")
    beside = axes.twinx()
    beside.bar([p + 0.2 for p in places], memory, 0.4, color=STYLE[PEFT_ALORA][0], label="GiB beyond the model")
    for place, (second, gib) in enumerate(zip(seconds, memory, strict=True)):
        axes.annotate(f"{second:,.1f} s", (place - 0.2, second), ha="center", va="bottom", fontsize=8)
        beside.annotate(f"{gib:.2f} GiB", (place + 0.2, gib), ha="center", va="bottom", fontsize=8)
    axes.set_xticks(list(places), names, fontsize=8)
    axes.set_ylabel("seconds an epoch")
    beside.set_ylabel("GiB, kept prefixes included")
    axes.margins(y=0.15)
    beside.margins(y=0.15)
    axes.set_title("Training an aLoRA on rows of 1,000 tokens", fontsize=10)
    handles = [*axes.get_legend_handles_labels()[0], *beside.get_legend_handles_labels()[0]]
    axes.legend(handles, ["seconds an epoch", "GiB beyond the model"], fontsize=7, frameon=False, loc="upper left")
