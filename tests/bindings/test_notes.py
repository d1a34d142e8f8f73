"""The demo's notes: deterministic, balanced, all different, and not decided by the label's own words."""

from collections import Counter

import pytest

from alorakit.bindings.cli.note_phrases import EVIDENCE, NO_FAILURE, RULED_OUT
from alorakit.bindings.cli.notes import LABELS, MAX_WORDS, MIN_WORDS, generate_notes


@pytest.fixture(scope="module")
def notes() -> list[dict[str, str]]:
    return generate_notes(500, seed=0)


def test_the_same_seed_gives_the_same_rows(notes: list[dict[str, str]]) -> None:
    assert generate_notes(500, seed=0) == notes
    assert generate_notes(120, seed=0) == notes[:120]
    assert generate_notes(500, seed=1) != notes
    assert generate_notes(0, seed=0) == []


def test_rows_are_what_training_reads(notes: list[dict[str, str]]) -> None:
    assert len(notes) == 500
    assert all(set(note) == {"item", "label"} for note in notes)
    assert {note["label"] for note in notes} == set(LABELS)
    assert NO_FAILURE in LABELS
    assert all(MIN_WORDS <= len(note["item"].split()) <= MAX_WORDS for note in notes)
    assert not any("{" in note["item"] or "}" in note["item"] for note in notes)


def test_no_note_comes_twice(notes: list[dict[str, str]]) -> None:
    assert len({note["item"] for note in notes}) == len(notes)


@pytest.mark.parametrize("part", [slice(0, 400), slice(400, 500), slice(33, 96)])
def test_labels_are_balanced(notes: list[dict[str, str]], part: slice) -> None:
    counts = Counter(note["label"] for note in notes[part])
    assert len(counts) == len(LABELS)
    assert max(counts.values()) - min(counts.values()) <= 2


def test_every_mode_has_phrasings_enough() -> None:
    assert all(len(set(phrases)) >= 12 for phrases in EVIDENCE.values())
    assert set(RULED_OUT) == set(EVIDENCE) - {NO_FAILURE}


def test_the_words_alone_do_not_decide(notes: list[dict[str, str]]) -> None:
    """Looking for the label's own words is right less than half of the time, as parts are ruled out by name."""
    failures = [note for note in notes if note["label"] != NO_FAILURE]
    keys = {mode: mode.split()[0].casefold().removesuffix("ing") for mode in RULED_OUT}
    found = [[mode for mode, key in keys.items() if key in note["item"].casefold()] for note in failures]
    right = sum(modes == [note["label"]] for modes, note in zip(found, failures, strict=True))
    assert right < len(failures) / 2


def test_evidence_belongs_to_one_mode() -> None:
    every = [phrase for phrases in EVIDENCE.values() for phrase in phrases]
    assert len(set(every)) == len(every)
