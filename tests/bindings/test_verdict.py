"""Which labels pass: told, known words, or quoted by the requirement."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alorakit.bindings.checks.verdict import demanded, passing_labels, quoted_labels
from alorakit.engine.errors import CheckError

LABELS = ("bearing", "piston rings", "no_failure")


def rest(*failing: str) -> frozenset[str]:
    return frozenset(LABELS) - set(failing)


@pytest.mark.parametrize(
    ("labels", "passing"),
    [
        (("yes", "no"), {"yes"}),
        (("Yes", "NO"), {"Yes"}),
        (("true", "false"), {"true"}),
        (("pass", "fail"), {"pass"}),
        (("yes", "pass", "no"), {"yes", "pass"}),
        (("no",), set()),
    ],
)
def test_known_words(labels: tuple[str, ...], passing: set[str]) -> None:
    assert passing_labels(labels, None) == passing
    assert passing_labels(labels, "It must not be 'no'.") == passing
    assert passing_labels(labels, "Whether it is 'yes' or 'no' is up to you.") == passing  # says nothing plainly


@pytest.mark.parametrize(
    "text",
    [
        "The failure mode must not be 'no_failure'.",
        'The failure mode must not be "no_failure"',
        "The failure mode must not be `no_failure`",
        "The failure mode must not be \u201cno_failure\u201d.",
        "The failure mode must not be \u2018no_failure\u2019.",
        "The failure mode mustn\u2019t be \u2018no_failure\u2019.",
        "The failure mode MUST NOT BE 'NO_FAILURE'",
        "The failure mode must not be 'no_failure.'",
        "The mode cannot be 'no_failure'",
        "The mode can't be 'no_failure'",
        "The mode can not be 'no_failure'",
        "The mode should not be 'no_failure'",
        "The mode shouldn't be the label 'no_failure'",
        "The mode is not 'no_failure'",
        "The mode isn't 'no_failure'",
        "The mode is never 'no_failure'",
        "The mode must never be 'no_failure'",
        "Never answer 'no_failure'",
        "The answer must not contain the word 'no_failure'",
        "The mode must be anything but 'no_failure'",
        "The mode must be something other than 'no_failure'",
        "The mode must be different from 'no_failure'",
        "The note must not be empty, and the mode must not be 'no_failure'",
        "The engine did not start. The mode must not be:\n'no_failure'",
        "The mode must not be:\n\n'no_failure'",
        "The mode must never read 'no_failure'",
        "The answer does not mention 'no_failure'",
        "The mode must not be the label ('no_failure').",
        "Please make sure that the mode is not 'no_failure'",
        "Do not report 'no_failure'!",
        "The mode won't be 'no_failure'",
    ],
)
def test_forbidden(text: str) -> None:
    assert passing_labels(LABELS, text) == rest("no_failure")


@pytest.mark.parametrize(
    "text",
    [
        "The failure mode must be 'bearing'.",
        "The failure mode should be 'bearing'",
        "The failure mode is 'bearing'",
        "The failure mode is always 'bearing'",
        "The failure mode may only be 'bearing'",
        "The failure mode has to be labelled as 'bearing'",
        "The failure mode must be equal to \u201cBearing\u201d",
        "The engine does not start. The mode must be 'bearing'",
        "The mode must be 'bearing', not 'no_failure'",
    ],
)
def test_required(text: str) -> None:
    assert passing_labels(LABELS, text) == {"bearing"}


@pytest.mark.parametrize(
    ("text", "passing"),
    [
        ("must be 'bearing' or 'piston rings'", {"bearing", "piston rings"}),
        ("must be one of 'bearing', 'piston rings'", {"bearing", "piston rings"}),
        ("must be either 'bearing' or the 'piston rings'", {"bearing", "piston rings"}),
        ("must not be 'bearing' or 'piston rings'", {"no_failure"}),
        ("must be neither 'bearing' nor 'piston rings'", {"no_failure"}),
        ("must not be any of: 'bearing', 'no_failure'", {"piston rings"}),
        ("must not be 'bearing', and must not be 'no_failure'", {"piston rings"}),
        ("must not be 'bearing', 'piston rings', or 'no_failure'", set()),
        ("must not be 'bearing' nor 'piston rings'", {"no_failure"}),
        ("must not be 'bearing'; 'piston rings'", {"no_failure"}),
        ("must not be 'bearing' and the mode must not be 'no_failure'", {"piston rings"}),
        ("must not be 'bearing'. It must not be 'no_failure'", {"piston rings"}),
        ("The note says 'call back'; the mode must not be 'bearing'", {"piston rings", "no_failure"}),
    ],
)
def test_several_quotes(text: str, passing: set[str]) -> None:
    assert passing_labels(LABELS, f"The failure mode {text}.") == passing


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "The failure mode must be plausible",
        "The failure mode must not be no_failure",
        "Mention 'bearing'",
        "If the note says so, the mode must be 'bearing'",
        "Reject a mode that is 'bearing'",
        "The mode must be 'bearing' unless the note is empty",
        "The mode must not be anything other than 'bearing'",
        "It is not true that it must be 'bearing'",
        "The mode is not necessarily 'bearing'",
        "The mode must be 'bearing' and must not be 'bearing'",
        "The mode must not be 'bearing' or 'pistons'",
        "The mode must not be 'no_fault'",
        "It must not happen that the label is 'no_failure'",
        "None of the answers is 'no_failure'",
        "Nobody may say it must be 'no_failure'",
        "I doubt that it is 'bearing'",
        "The note claims it is 'bearing'",
        "must be 'no_failure' is a wrong statement",
        "must not be 'no_failure'; 'bearing' is fine",
        "must not be 'no_failure', 'bearing' is ok",
        "must not be 'no_failure' but 'bearing'",
        "must not omit 'no_failure'",
        "must not lack 'no_failure'",
        "must not exclude 'no_failure'",
        "must be 'bearing' if the note mentions heat",
        "must be 'bearing' when the note mentions heat",
        "must be 'bearing' only on Mondays",
        "must be 'bearing' on Mondays",
        "must be 'bearing'. Otherwise the check fails.",
        "must be 'bearing' on Mondays and must be 'no_failure'",
        "must be 'bearing' or must not be 'no_failure'",
        "must be 'bearing' nor 'no_failure'",
        "must not be neither 'bearing' nor 'no_failure'",
        "must be 'bearing' or no_failure",
        "Given heat, the mode must be 'bearing'",
        "It need not be 'no_failure'",
        "It needn't be 'no_failure'",
        "It might not be 'no_failure'",
        "It need never be 'no_failure'",
        "Allow something other than 'no_failure'",
        "Nothing other than 'no_failure'",
        "The opposite of the mode must be 'no_failure'",
    ],
)
def test_unclear_wording_raises(text: str | None) -> None:
    with pytest.raises(CheckError) as caught:
        passing_labels(LABELS, text)
    assert "\n" not in str(caught.value)
    assert "labels" in str(caught.value)


def test_case_decides_between_labels_spelt_alike() -> None:
    assert passing_labels(("Air", "air", "oil"), "must not be 'air'") == {"Air", "oil"}
    assert passing_labels(("Air", "air", "oil"), "must not be 'AIR'") == {"oil"}


def test_labels_with_quotes_and_pattern_characters() -> None:
    labels = ("driver's error", "a+b (x)", "ok.")
    assert passing_labels(labels, "must not be 'driver's error'") == {"a+b (x)", "ok."}
    assert passing_labels(labels, "must be 'a+b (x)'") == {"a+b (x)"}
    assert passing_labels(labels, "must not be 'ok.'") == {"driver's error", "a+b (x)"}


def test_told_labels_outrank_words_and_unclear_quotes() -> None:
    text = "Anything about 'bearing'"
    assert passing_labels(LABELS, text, pass_labels=["bearing"]) == {"bearing"}
    assert passing_labels(LABELS, text, fail_labels=["no_failure"]) == rest("no_failure")
    assert passing_labels(LABELS, text, pass_labels=[], fail_labels=LABELS) == set()
    assert passing_labels(LABELS, "must not be 'rust'", pass_labels=["bearing"]) == {"bearing"}
    assert passing_labels(("yes", "no"), None, pass_labels=["no"]) == {"no"}


@pytest.mark.parametrize(
    ("labels", "told", "text", "message"),
    [
        (("yes", "no"), None, "must be 'no'", "'no' passes, but for this adapter it fails"),
        (("Yes", "No"), None, "must not be 'yes'", "'yes' fails, but for this adapter it passes"),
        (("good", "bad"), ["good"], "must be 'bad'", "'bad' passes, but for this adapter it fails"),
        (("good", "bad"), ["good"], "must not be 'good'", "'good' fails, but for this adapter it passes"),
    ],
)
def test_a_requirement_against_the_adapters_own_sides_raises(
    labels: tuple[str, ...], told: list[str] | None, text: str, message: str
) -> None:
    with pytest.raises(CheckError, match=message):
        passing_labels(labels, text, pass_labels=told)


def test_quoted_labels_are_found_whatever_is_said_of_them() -> None:
    assert quoted_labels(LABELS, "Mention 'Bearing', 'no_failure' and 'rust', not piston rings") == rest("piston rings")
    assert quoted_labels((), "'' and 'bearing'") == set()


@pytest.mark.parametrize(
    ("passes", "fails", "message"),
    [
        (["pump"], None, "not labels of the adapter"),
        (["bearing"], ["bearing"], "both to pass and to fail"),
        (["bearing"], ["no_failure"], "neither pass nor fail"),
    ],
)
def test_told_labels_that_contradict(passes: list[str], fails: list[str] | None, message: str) -> None:
    with pytest.raises(CheckError, match=message):
        passing_labels(LABELS, None, passes, fails)


@given(st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=5, unique=True), st.text(max_size=60))
def test_any_text_gives_a_subset_or_a_check_error(labels: list[str], text: str) -> None:
    try:
        passing = passing_labels(labels, text)
    except CheckError:
        return
    assert passing <= set(labels)


# -- answers that are no labels


@pytest.mark.parametrize(
    ("text", "passes", "fails"),
    [
        ("The part must not be 'Oil pump'.", ["piston", "pump", ""], ["oil pump", " OIL PUMP "]),
        ("It must be 'air filter' or 'fuel line'", ["air filter", "Fuel line"], ["piston", "air filters"]),
        ("It must be 'a', 'b' or 'c' and it must not be 'd'.", ["a", "c"], ["d", "x"]),
    ],
)
def test_what_a_requirement_says_of_a_text(text: str, passes: list[str], fails: list[str]) -> None:
    demand = demanded(text)
    assert [demand.allows(answer) for answer in passes] == [True] * len(passes)
    assert [demand.allows(answer) for answer in fails] == [False] * len(fails)


@pytest.mark.parametrize("text", [None, "", "be nice", "It might be 'a'.", "must be 'a' and must not be 'A'"])
def test_a_requirement_that_does_not_decide_a_text(text: str | None) -> None:
    with pytest.raises(CheckError, match="does not say plainly"):
        demanded(text)


def test_a_quote_that_is_no_label_tells_the_labels() -> None:
    with pytest.raises(CheckError, match=r"quotes 'leak', which is not a label; quote one of .* \['pump', 'rod'\]"):
        passing_labels(["rod", "pump"], "The part must not be 'leak'.")
