"""The figures against plain definitions and a grid."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alorakit.training.metrics import Bin, Classification, calibration_error, fit_temperature, reliability, softmax


def test_figures_of_a_small_table() -> None:
    truth = ["a", "a", "a", "b", "b", "c"]
    found = Classification.of(truth, ["a", "a", "b", "b", "what?", "a"], ["a", "b", "c", "unused"])
    assert found.accuracy == 0.5
    assert found.confusion == ((2, 1, 0, 0, 0), (0, 1, 0, 0, 1), (1, 0, 0, 0, 0), (0, 0, 0, 0, 0))
    a, b, c = (found.classes[label] for label in "abc")
    assert (a.precision, a.recall, a.f1, a.support) == (pytest.approx(2 / 3), pytest.approx(2 / 3), 2 / 3, 3)
    assert (b.precision, b.recall, b.support) == (0.5, 0.5, 2)
    assert (c.precision, c.recall, c.f1, c.support) == (0.0, 0.0, 0.0, 1)
    assert found.macro_f1 == pytest.approx((2 / 3 + 0.5 + 0) / 3)  # the unused class does not pull it down
    assert (found.ece, found.reliability) == (None, ())
    assert json.loads(json.dumps(found.to_json()))["classes"]["b"]["recall"] == 0.5


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=40))
def test_confusion_counts_every_row_once(rows: list[tuple[int, int]]) -> None:
    labels = "abcd"
    truth, answers = [labels[right] for right, _ in rows], ["abcd?"[answer] for _, answer in rows]
    found = Classification.of(truth, answers, labels)
    counts = np.array(found.confusion)
    assert counts.sum() == len(rows)
    assert found.accuracy == pytest.approx(np.trace(counts[:, :4]) / len(rows))
    for at, label in enumerate(labels):
        hits = sum(right == answer == label for right, answer in zip(truth, answers, strict=True))
        assert found.classes[label].precision == pytest.approx(hits / max(answers.count(label), 1))
        assert found.classes[label].recall == pytest.approx(hits / max(truth.count(label), 1))
        assert counts[at].sum() == truth.count(label) == found.classes[label].support


def test_calibration_error_by_hand() -> None:
    bins = reliability([0.95, 0.99, 0.96, 0.94, 0.3], [True, True, True, False, False])
    assert bins == (Bin(0.3, 0.0, 1), Bin(pytest.approx(0.96), 0.75, 4))
    assert calibration_error(bins) == pytest.approx((1 * 0.3 + 4 * 0.21) / 5)
    assert calibration_error(()) == 0.0


def test_a_bin_has_its_upper_end() -> None:
    assert [part.count for part in reliability([0.0, 0.5, 0.5 + 1e-9, 1.0], [True] * 4, num_bins=2)] == [2, 2]


def test_probabilities_that_hold_have_no_error() -> None:
    found = Classification.of(["a"] * 8, ["a"] * 6 + ["b"] * 2, "ab", [0.75] * 8)
    assert found.ece == 0.0


def test_softmax_of_scores_far_from_zero() -> None:
    assert softmax([-2000.0, -2000.0]).tolist() == [0.5, 0.5]
    assert softmax([0.0, 2.0], 2.0)[1] == pytest.approx(1 / (1 + np.exp(-1)))


def mean_loss(scores: list[list[float]], truth: list[int], temperature: float) -> float:
    return -float(np.mean([np.log(softmax(row, temperature)[right]) for row, right in zip(scores, truth, strict=True)]))


@pytest.mark.parametrize("sharpness", [0.3, 1.0, 4.0])
def test_temperature_is_the_grids_best(sharpness: float) -> None:
    rng = np.random.default_rng(0)
    true = [rng.normal(scale=2.0, size=rng.integers(2, 6)) for _ in range(200)]
    truth = [int(rng.choice(len(row), p=softmax(row))) for row in true]
    scores = [(sharpness * row - 30).tolist() for row in true]
    best = fit_temperature(scores, truth)
    grid = best + np.linspace(-2e-3, 2e-3, 81)
    losses = [mean_loss(scores, truth, temperature) for temperature in grid]
    assert abs(grid[int(np.argmin(losses))] - best) < 1e-4
    coarse = np.geomspace(0.05, 20, 200)
    assert mean_loss(scores, truth, best) <= min(mean_loss(scores, truth, t) for t in coarse) + 1e-12
    assert best == pytest.approx(sharpness, rel=0.2)  # it undoes what was done to the scores


def test_temperature_where_there_is_none_to_fit() -> None:
    row, right = [0.0, -1.0, -2.0], [0] * 10
    assert fit_temperature([row] * 9, right[:9]) == 1.0
    assert fit_temperature([[0.0]] * 10, right) == 1.0
    assert fit_temperature([[-3.0, -3.0]] * 10, right) == 1.0
    assert fit_temperature([[0.0, -np.inf]] * 10, right) == 1.0
    assert fit_temperature([row] * 10, right) == 0.05
    assert fit_temperature([row] * 10, [2] * 10) == 20.0
