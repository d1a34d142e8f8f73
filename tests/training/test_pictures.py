"""Pictures: the same bytes every time, whatever the user's settings, and names that do not lie over each other."""

import subprocess
import sys
import warnings
from collections.abc import Sequence
from itertools import pairwise

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from alorakit.training.charts import MAX_CHARS, MAX_CLASSES, confusion_matrix, cut, reliability
from alorakit.training.metrics import Bin, Classification
from alorakit.training.pictures import _by_epoch, evaluation_png, training_png

PNG = b"\x89PNG\r\n\x1a\n"
HISTORY = [
    {"epoch": 1, "train_loss": 1.0, "val_loss": 0.9, "accuracy": 0.5},
    {"epoch": 2, "train_loss": 0.02, "val_loss": 0.8, "accuracy": 0.75},
]
BEFORE = {"val_loss": 3.0, "accuracy": 0.1}
STRANGE = ["$x_", "a\nb\t" + "c" * 80, "\u6545\u969c", ""]


def answers(labels: Sequence[str], rows: int = 300) -> Classification:
    rng = np.random.default_rng(0)
    truth = [labels[at] for at in rng.integers(len(labels), size=rows)]
    predicted = [right if rng.random() < 0.7 else rng.choice([*labels, "?"]) for right in truth]
    return Classification.of(truth, predicted, labels, rng.uniform(0.3, 1.0, rows).tolist())


def both(labels: Sequence[str]) -> tuple[bytes, bytes]:
    found = answers(labels)
    training = training_png(HISTORY, BEFORE, 2, found.confusion, labels, [2.0, 1.0, 0.5, 0.01])
    return training, evaluation_png({"mine": found, "base": answers(labels, 20)}, "mine", found.reliability, 2.0)


@pytest.mark.parametrize("labels", [["yes", "no"], STRANGE, [f"class {n}" for n in range(60)]], ids=len)
def test_any_labels_are_drawn_without_a_warning(labels: list[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for picture in both(labels):
            assert picture.startswith(PNG)


def test_the_users_settings_change_nothing_and_are_not_changed() -> None:
    wanted = both(["yes", "no"])
    with matplotlib.rc_context({"font.size": 30, "text.usetex": True, "savefig.dpi": 10}):
        assert both(["yes", "no"]) == wanted
        assert (matplotlib.rcParams["font.size"], matplotlib.rcParams["text.usetex"]) == (30, True)


def test_an_accuracy_of_zero_can_be_seen() -> None:
    """Its marks lie inside the frame, not half below it."""
    axes = Figure().add_subplot()
    _by_epoch(axes, [0.0, 0.0, 1.0], 2)
    low, high = axes.get_ylim()
    assert low < -0.01 and high > 1.01


def test_what_a_run_did_decides_what_is_drawn() -> None:
    plain = [{"epoch": 1, "train_loss": 1.0}]
    found = answers(["yes", "no"])
    pictures = [
        training_png(plain, {}, 1, None, [], []),
        training_png(plain, {}, 1, None, [], [1.2, 0.8]),
        training_png(HISTORY, BEFORE, 1, None, [], []),
        training_png(HISTORY, BEFORE, 2, None, [], []),
        training_png(HISTORY, BEFORE, 2, found.confusion, ["yes", "no"], []),
        evaluation_png({"mine": found}, "mine"),
        evaluation_png({"mine": found}, "mine", found.reliability[:3], 2.0),
    ]
    assert len(set(pictures)) == len(pictures)


@pytest.mark.parametrize("length", [3, 80])
@pytest.mark.parametrize("classes", [3, 8, 60])
def test_names_do_not_overlap(classes: int, length: int) -> None:
    labels = [f"{n} ".ljust(length, "w") for n in range(classes)]
    figure = Figure(figsize=(6.2, 4.0 + 0.12 * min(classes, MAX_CLASSES)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    confusion_matrix(axes, answers(labels, 3000).confusion, labels, "title")
    figure.draw_without_rendering()
    left = [label.get_window_extent() for label in axes.get_yticklabels()]
    assert len(left) == min(classes, MAX_CLASSES)
    assert all(upper.y0 >= lower.y1 - 1 for upper, lower in pairwise(left))
    names = axes.get_xticklabels()
    assert len(names) == len(left) + 1
    # Turned names are apart if they are further apart, across the turn, than they are high.
    step = np.sin(np.radians(names[0].get_rotation())) * np.diff([name.get_window_extent().x1 for name in names])
    assert (step >= 0.8 * left[0].height).all()


def test_the_commonest_classes_are_drawn_and_the_others_counted() -> None:
    labels = [f"c{n}" for n in range(MAX_CLASSES + 2)]
    truth = [*labels, *labels[2:], *labels[2:]]
    found = Classification.of(truth, ["c0"] * len(truth), labels)
    axes = Figure().subplots()
    confusion_matrix(axes, found.confusion, labels, "title")
    assert [tick.get_text() for tick in axes.get_xticklabels()] == [*labels[2:], "(other)"]
    shares = axes.images[0].get_array()
    assert shares is not None
    assert shares[:, -1].tolist() == [1.0] * MAX_CLASSES


def test_a_text_has_no_calibration() -> None:
    axes = Figure().subplots()
    reliability(axes, (), (), 1.0)
    assert "no probabilities" in axes.get_title()
    reliability(axes, [Bin(0.5, 0.4, 3)], [Bin(0.9, 0.4, 3)], 2.5)
    assert [line.get_label() for line in axes.lines[1:]] == ["as it should be", "temperature 1", "temperature 2.50"]


def test_names_are_cut_in_the_middle() -> None:
    assert cut("short") == "short"
    assert cut("a" * 40 + "the end") == "a" * 11 + "…" + "a" * 4 + "the end"
    assert len(cut("x" * 80)) == MAX_CHARS + 1
    assert cut("two\nlines\x00") == "two lines"


def test_matplotlib_is_imported_for_the_first_picture() -> None:
    code = "import sys, alorakit.training.pictures; print('matplotlib' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
