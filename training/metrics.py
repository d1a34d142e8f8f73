"""How good answers are: accuracy, classes, confusion, calibration; and the temperature that calibrates. No torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

NUM_BINS = 15
MIN_ROWS = 10
TEMPERATURES = (0.05, 20.0)
_HALVINGS = 60


@dataclass(frozen=True)
class ClassFigures:
    """One class; a share of nothing is 0.

    Attributes:
        precision: Share of the rows answered so that are of the class.
        recall: Share of the class's rows that are answered so.
        f1: Harmonic mean of the two.
        support: Rows of the class.
    """

    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class Bin:
    """Rows whose answer's probability lies in one of the equal parts of (0, 1].

    Attributes:
        confidence: Mean probability of the answers.
        accuracy: Share that is right.
        count: Rows.
    """

    confidence: float
    accuracy: float
    count: int


@dataclass(frozen=True)
class Classification:
    """Answers beside the truth.

    Attributes:
        labels: The classes.
        accuracy: Share of right answers.
        classes: Figures of each class.
        macro_f1: Mean F1 of the classes that occur, in the truth or among the answers.
        confusion: Rows of each class [labels] by the answer given [labels + 1]; the last column counts answers that
            are none of the classes.
        ece: Expected calibration error over ``NUM_BINS`` bins of equal width; None without probabilities.
        reliability: Those bins that hold rows, by confidence; empty without probabilities.
    """

    labels: tuple[str, ...]
    accuracy: float
    classes: dict[str, ClassFigures]
    macro_f1: float
    confusion: tuple[tuple[int, ...], ...]
    ece: float | None
    reliability: tuple[Bin, ...]

    @classmethod
    def of(
        cls,
        truth: Sequence[str],
        predicted: Sequence[str],
        labels: Sequence[str],
        probabilities: Sequence[float] | None = None,
    ) -> "Classification":
        """Compare.

        Args:
            truth: The right class of each row, at least one row.
            predicted: The answer to each row; need be none of the classes.
            labels: Every class of ``truth``, each once.
            probabilities: Of each answer, 0 to 1; None if there are none.
        """
        index = {label: at for at, label in enumerate(labels)}
        counts = np.zeros((len(labels), len(labels) + 1), dtype=np.int64)
        for right, answer in zip(truth, predicted, strict=True):
            counts[index[right], index.get(answer, len(labels))] += 1
        hits = np.diagonal(counts)
        precision = _ratio(hits, counts[:, : len(labels)].sum(0))
        recall = _ratio(hits, counts.sum(1))
        f1 = _ratio(2 * precision * recall, precision + recall)
        occurs = (counts.sum(1) + counts[:, : len(labels)].sum(0)) > 0
        correct = [right == answer for right, answer in zip(truth, predicted, strict=True)]
        bins = () if probabilities is None else reliability(probabilities, correct)
        return cls(
            labels=tuple(labels),
            accuracy=float(np.mean(correct)),
            classes={
                label: ClassFigures(float(precision[at]), float(recall[at]), float(f1[at]), int(counts[at].sum()))
                for label, at in index.items()
            },
            macro_f1=float(f1[occurs].mean()),
            confusion=tuple(tuple(row) for row in counts.tolist()),
            ece=None if probabilities is None else calibration_error(bins),
            reliability=bins,
        )

    def to_json(self) -> dict[str, Any]:
        """The figures as JSON has them; confusion and reliability as lists."""
        return {
            "accuracy": self.accuracy,
            "macro_f1": self.macro_f1,
            "classes": {label: vars(figures) for label, figures in self.classes.items()},
            "confusion": [list(row) for row in self.confusion],
            "ece": self.ece,
            "reliability": [vars(part) for part in self.reliability],
        }


def reliability(probabilities: Sequence[float], correct: Sequence[bool], num_bins: int = NUM_BINS) -> tuple[Bin, ...]:
    """The reliability curve (Guo et al. 2017, arXiv 1706.04599).

    Args:
        probabilities: Of each row's answer, 0 to 1.
        correct: Whether it is right.
        num_bins: Parts of (0, 1], of equal width; each has its upper end.

    Returns:
        The bins that hold rows, in order.
    """
    values, right = np.asarray(probabilities, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    where = np.clip(np.ceil(values * num_bins).astype(np.int64) - 1, 0, num_bins - 1)
    return tuple(
        Bin(float(values[inside].mean()), float(right[inside].mean()), int(inside.sum()))
        for inside in (where == at for at in range(num_bins))
        if inside.any()
    )


def calibration_error(bins: Sequence[Bin]) -> float:
    """Mean distance between confidence and accuracy, bins weighted by their rows (Guo et al. 2017, equation 3)."""
    total = sum(part.count for part in bins)
    return sum(part.count * abs(part.accuracy - part.confidence) for part in bins) / total if total else 0.0


def softmax(scores: Sequence[float] | NDArray[np.float64], temperature: float = 1.0) -> NDArray[np.float64]:
    """Probabilities [labels] of summed log-probabilities [labels] divided by ``temperature``."""
    scaled = np.asarray(scores, dtype=np.float64) / temperature
    weights = np.exp(scaled - scaled.max())
    return np.asarray(weights / weights.sum())


def fit_temperature(scores: Sequence[Sequence[float]], truth: Sequence[int]) -> float:
    """The temperature T that makes softmax(scores / T) most likely to be right: least mean -log p(truth).

    That is convex in 1/T, so its slope, E[score] - score of the truth, is brought to zero by halving.

    Args:
        scores: For each row, the summed log-probabilities of all labels; the numbers of labels may differ.
        truth: Index of each row's right label.

    Returns:
        T, within ``TEMPERATURES``: rows that are all right would take it to 0, rows worse than guessing to infinity,
        and are held at the ends. 1.0 (as it is) if fewer than ``MIN_ROWS`` rows say anything: a row of one label, of
        equal scores, or with a score that is not finite says nothing.
    """
    rows = [(np.asarray(row, dtype=np.float64), right) for row, right in zip(scores, truth, strict=True)]
    rows = [(row, right) for row, right in rows if np.isfinite(row).all() and np.ptp(row) > 0]
    if len(rows) < MIN_ROWS:
        return 1.0

    def slope(temperature: float) -> float:
        return sum(float(softmax(row, temperature) @ row - row[right]) for row, right in rows)

    low, high = TEMPERATURES
    if slope(low) <= 0:  # even the sharpest is not sharp enough
        return low
    if slope(high) >= 0:
        return high
    for _ in range(_HALVINGS):
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if slope(middle) > 0 else (low, middle)
    return float(np.sqrt(low * high))


def _ratio(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0), dtype=np.float64)
