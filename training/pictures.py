"""``training.png`` and ``eval.png``: what a run and an evaluation found, drawn by matplotlib, byte for byte the same.

matplotlib is imported when the first picture is drawn, and none of its global state is used.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np

from alorakit.training.charts import COLOURS, MAX_CLASSES, accuracies, class_bars, confusion_matrix, cut, reliability
from alorakit.training.metrics import Bin, Classification

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BEST = "#b04040"


def training_png(
    history: Sequence[Mapping[str, float]],
    before: Mapping[str, float],
    best_epoch: int,
    confusion: Sequence[Sequence[int]] | None,
    labels: Sequence[str],
    step_losses: Sequence[float],
) -> bytes:
    """How a training run went.

    Args:
        history: ``TrainReport.history``: ``train_loss`` and, with validation, ``val_loss`` and ``accuracy`` of every
            epoch.
        before: ``val_loss`` and ``accuracy`` of the base model; empty without validation.
        best_epoch: The epoch that was saved, from 1; it is marked.
        confusion: Of that epoch, see :class:`~alorakit.training.metrics.Classification`; None: not drawn.
        labels: The classes of ``confusion``.
        step_losses: Mean loss of every optimizer step, over all epochs of ``history``.

    Returns:
        A PNG file's content.
    """
    validated = "val_loss" in history[0]
    names = ["loss", *(["accuracy"] if validated else []), *(["confusion"] if confusion else [])]
    side = 4.0 + 0.12 * min(len(labels), MAX_CLASSES) if confusion else 4.0
    widths = [1.3 if name == "confusion" else 1.0 for name in names]
    with _picture(4.8 * sum(widths), side) as (figure, content):
        axes = dict(zip(names, figure.subplots(1, len(names), squeeze=False, width_ratios=widths)[0], strict=True))
        _losses(axes["loss"], history, before, best_epoch, step_losses)
        if validated:
            _by_epoch(axes["accuracy"], [before.get("accuracy"), *(e.get("accuracy") for e in history)], best_epoch)
        if confusion:
            confusion_matrix(axes["confusion"], confusion, labels, f"validation rows, epoch {best_epoch}")
    return content.getvalue()


def evaluation_png(
    models: Mapping[str, Classification], main: str, uncalibrated: Sequence[Bin] = (), temperature: float = 1.0
) -> bytes:
    """How well an adapter answers, beside others on the same rows.

    Args:
        models: What each model's answers are worth, by its name.
        main: The one of ``models`` whose confusion and reliability are drawn.
        uncalibrated: Its reliability at a temperature of 1, if that is another.
        temperature: What its probabilities were taken at.

    Returns:
        A PNG file's content.
    """
    found = models[main]
    classes = min(len(found.labels), MAX_CLASSES)
    with _picture(12.5, 8.0 + 0.2 * classes) as (figure, content):
        grid = figure.add_gridspec(2, 2, width_ratios=[1.5, 1], height_ratios=[1.3, 1])
        confusion_matrix(figure.add_subplot(grid[0, 0]), found.confusion, found.labels, cut(main))
        class_bars(figure.add_subplot(grid[1, 0]), models, found)
        reliability(figure.add_subplot(grid[0, 1]), found.reliability, uncalibrated, temperature)
        accuracies(figure.add_subplot(grid[1, 1]), models)
    return content.getvalue()


@contextmanager
def _picture(width: float, height: float) -> Iterator[tuple["Figure", BytesIO]]:
    """A figure (inches) in matplotlib's own style, whatever the user's settings; written when the block ends."""
    from matplotlib import style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    content = BytesIO()
    with style.context("default", after_reset=True), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a letter the font lacks is drawn as a box
        figure = Figure(figsize=(width, height), dpi=100, layout="constrained")
        figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)  # type: ignore[union-attr, call-arg]  # inches
        FigureCanvasAgg(figure)
        yield figure, content
        figure.savefig(content, format="png", metadata={"Software": None})


def _losses(
    axes: "Axes",
    history: Sequence[Mapping[str, float]],
    before: Mapping[str, float],
    best_epoch: int,
    step_losses: Sequence[float],
) -> None:
    epochs = range(1, len(history) + 1)
    if step_losses:
        steps = (np.arange(len(step_losses)) + 1) * len(history) / len(step_losses)
        axes.plot(steps, step_losses, color=COLOURS[1], linewidth=0.8, label="training, by step")
    axes.plot(epochs, [e["train_loss"] for e in history], "o-", color=COLOURS[0], markersize=4, label="training")
    if "val_loss" in history[0]:
        start = [(0, before["val_loss"])] if "val_loss" in before else []
        points = [*start, *((at, e["val_loss"]) for at, e in zip(epochs, history, strict=True))]
        axes.plot(*zip(*points, strict=True), "s-", color=COLOURS[2], markersize=4, label="validation")
    values = [*step_losses, *(e[name] for e in history for name in ("train_loss", "val_loss") if name in e)]
    if min(values) > 0 and max(values) > 30 * min(values):
        axes.set_yscale("log")
    axes.set(title="loss", ylabel="nats per token")
    _epoch_axis(axes, best_epoch)


def _by_epoch(axes: "Axes", values: Sequence[float | None], best_epoch: int) -> None:
    points = [(at, value) for at, value in enumerate(values) if value is not None]
    axes.plot(*zip(*points, strict=True), "s-", color=COLOURS[2], markersize=4, label="validation")
    axes.set(title="accuracy", ylim=(-0.02, 1.02))
    _epoch_axis(axes, best_epoch)


def _epoch_axis(axes: "Axes", best_epoch: int) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.axvline(best_epoch, color=_BEST, linestyle=":", label=f"saved: epoch {best_epoch}")
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
