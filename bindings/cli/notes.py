"""Labelled failure notes for the demo: made up, the same for the same seed."""

import random
from collections.abc import Iterator

from alorakit.bindings.cli.note_phrases import ASIDES, EVIDENCE, MACHINES, OPENINGS, RULED_OUT

LABELS = tuple(sorted(EVIDENCE))
MIN_WORDS, MAX_WORDS = 5, 90
BRIEF_SHARE = 0.4

_LINKS = ("", "", "Then: ", "Also, ", "Found that ", "On arrival: ", "Under the cover: ", "Main thing: ")


def generate_notes(rows: int, seed: int) -> list[dict[str, str]]:
    """Write technicians' triage notes.

    A note has two or three findings that belong to its label, up to two parts that were ruled out, and perhaps talk
    that says nothing, in changing order; four in ten are brief, one or two findings and nothing else. Labels are
    balanced: any run of rows has each of them equally often, give or take two. More rows with the same seed begin with
    the same rows.

    Args:
        rows: How many.
        seed: Decides everything.

    Returns:
        Rows with ``item`` (5 to 90 words, none twice) and ``label`` (one of :data:`LABELS`).
    """
    rng = random.Random(seed)
    seen: set[str] = set()
    notes = []
    for _, label in zip(range(rows), _labels(rng), strict=False):
        item = _note(label, rng)
        while item in seen or not MIN_WORDS <= len(item.split()) <= MAX_WORDS:
            item = _note(label, rng)
        seen.add(item)
        notes.append({"item": item, "label": label})
    return notes


def _labels(rng: random.Random) -> Iterator[str]:
    """Each label once in random order, again and again."""
    while True:
        yield from rng.sample(LABELS, len(LABELS))


def _note(label: str, rng: random.Random) -> str:
    if rng.random() < BRIEF_SHARE:
        brief = rng.sample(EVIDENCE[label], rng.choice((1, 2)))
        return " ".join(text[0].upper() + text[1:] + "." for text in brief).format(**_readings(rng))
    findings = [_sentence(text, rng) for text in rng.sample(EVIDENCE[label], rng.choice((2, 3)))]
    others = [mode for mode in RULED_OUT if mode != label]
    ruled_out = [rng.choice(RULED_OUT[mode]) for mode in rng.sample(others, rng.choice((0, 1, 1, 2)))]
    middle = [*findings, *ruled_out, *rng.sample(ASIDES, rng.randint(0, 1))]
    rng.shuffle(middle)
    text = " ".join([rng.choice(OPENINGS), *middle]).format(**_readings(rng))
    return text[0].upper() + text[1:]


def _sentence(finding: str, rng: random.Random) -> str:
    text = rng.choice(_LINKS) + finding
    return text[0].upper() + text[1:] + "."


def _readings(rng: random.Random) -> dict[str, str]:
    """A value for every slot of the phrases; wrong ones in the range of trouble, ``cool`` and ``low`` of health."""
    return {
        "machine": rng.choice(MACHINES),
        "unit": f"{rng.choice('ABCKMPT')}-{rng.randint(100, 999)}",
        "hours": str(rng.randrange(150, 9000, 10)),
        "rpm": str(rng.randrange(900, 3600, 50)),
        "temp": str(rng.randint(104, 149)),
        "cool": str(rng.randint(61, 84)),
        "mins": str(rng.randint(8, 55)),
        "secs": str(rng.randint(6, 25)),
        "bar": f"{rng.uniform(0.3, 1.4):.1f}",
        "volts": f"{rng.uniform(5.5, 10.5):.1f}",
        "amps": str(rng.randint(31, 78)),
        "kohm": str(rng.randint(3, 90)),
        "mm": f"{rng.uniform(0.3, 1.9):.2f}",
        "limit": "0.08",
        "vib": f"{rng.uniform(7, 15):.1f}",
        "low": f"{rng.uniform(0.5, 1.6):.1f}",
        "litres": f"{rng.uniform(0.5, 4):.1f}",
        "percent": str(rng.randrange(25, 80, 5)),
    }
