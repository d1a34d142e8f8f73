"""The parts of a picture: each draws what it is given into matplotlib's axes."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from alorakit.training.metrics import Bin, Classification

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_CLASSES = 20
MAX_CHARS = 22
# Cells are numbered up to so many classes; beyond, colours say it alone.
_MAX_NUMBERED = 12
_MAX_SLANTED = 8  # more names stand upright, which takes less room
COLOURS = ("#4878a8", "#a0a8b0", "#e0903a")


def confusion_matrix(axes: "Axes", confusion: Sequence[Sequence[int]], labels: Sequence[str], title: str) -> None:
    """Draw a confusion matrix: rows by their right class, colours by share of the row."""
    counts = np.asarray(confusion)
    shown = _commonest(counts.sum(1))
    cells = counts[np.ix_(shown, shown)]
    rest = counts[shown].sum(1) - cells.sum(1)
    names = [cut(labels[at]) for at in shown]
    columns = list(names)
    if rest.any():
        cells, columns = np.column_stack([cells, rest]), [*names, "(other)"]
    shares = cells / np.maximum(cells.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    slant: dict[str, Any] = {"rotation": 45 if len(columns) <= _MAX_SLANTED else 90, "rotation_mode": "anchor"}
    axes.set_xticks(range(len(columns)), columns, ha="right", va="center", **slant, **_plain(8))
    axes.set_yticks(range(len(names)), names, **_plain(8))
    few = f"\n({len(shown)} commonest of {len(labels)} classes)" if len(shown) < len(labels) else ""
    axes.set_title(f"{title}{few}", parse_math=False, fontsize=11)
    axes.set(xlabel="answer", ylabel="right class")
    if len(names) <= _MAX_NUMBERED:
        for (row, column), count in np.ndenumerate(cells):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=9)


def class_bars(axes: "Axes", models: Mapping[str, Classification], main: Classification) -> None:
    """Draw each model's F1 by class, the models in the colours of :func:`accuracies`."""
    shown = [main.labels[at] for at in _commonest(np.array([main.classes[name].support for name in main.labels]))]
    places = np.arange(len(shown))
    width = 0.8 / len(models)
    for at, (name, found) in enumerate(models.items()):
        values = [found.classes[label].f1 for label in shown]
        axes.barh(places + (at + 0.5) * width - 0.4, values, width, color=_colour(at), label=cut(name))
    axes.set_yticks(places, [f"{cut(label)} ({main.classes[label].support})" for label in shown], **_plain(8))
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel="F1", title="by class (rows)")
    axes.grid(axis="x", alpha=0.3)


def reliability(axes: "Axes", after: Sequence[Bin], before: Sequence[Bin], temperature: float) -> None:
    """Draw the share that is right by probability, at ``temperature`` and, if ``before`` holds any, at 1."""
    axes.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle="--", label="as it should be")
    for bins, colour, name in (
        (before, COLOURS[1], "temperature 1"),
        (after, COLOURS[0], f"temperature {temperature:.2f}"),
    ):
        if bins:
            total = sum(part.count for part in bins)
            confidences, accuracies = [part.confidence for part in bins], [part.accuracy for part in bins]
            axes.plot(confidences, accuracies, color=colour, label=name)
            sizes = [10 + 200 * part.count / total for part in bins]
            axes.scatter(confidences, accuracies, s=sizes, color=colour, alpha=0.7)
    axes.set(xlim=(-0.02, 1.04), ylim=(-0.02, 1.04), xlabel="probability of the answer", ylabel="share that is right")
    axes.set_title("calibration (dots: share of rows)" if after else "calibration: a text has no probabilities")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def accuracies(axes: "Axes", models: Mapping[str, Classification]) -> None:
    """Draw each model's accuracy."""
    values = [found.accuracy for found in models.values()]
    axes.barh(range(len(values)), values, 0.6, color=[_colour(at) for at in range(len(values))])
    for at, value in enumerate(values):
        inside: dict[str, Any] = {"x": value - 0.02, "ha": "right", "color": "white"}
        beside: dict[str, Any] = {"x": value + 0.02, "ha": "left", "color": "black"}
        axes.text(y=at, s=f"{value:.1%}", va="center", **(inside if value > 0.8 else beside))
    axes.set_yticks(range(len(values)), [cut(name) for name in models], **_plain(9))
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), title="accuracy")
    axes.grid(axis="x", alpha=0.3)


def _colour(at: int) -> str:
    return COLOURS[at % len(COLOURS)]


def _commonest(support: Any) -> list[int]:
    """Classes to draw, in their order: the ``MAX_CLASSES`` of most rows."""
    return sorted(np.argsort(-np.asarray(support), kind="stable")[:MAX_CLASSES].tolist())


def cut(text: str) -> str:
    """A name as it fits: on one line, its middle left out if it is long."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    half = MAX_CHARS // 2
    return line if len(line) <= MAX_CHARS else f"{line[:half]}…{line[-half:]}"


def _plain(size: int) -> dict[str, Any]:
    """How names are written: a dollar sign in one begins no formula."""
    return {"parse_math": False, "fontsize": size}
