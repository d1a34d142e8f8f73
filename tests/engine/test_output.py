"""Stop strings and streaming: the text ends before what ends it, and what was streamed stays."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alorakit.engine.output import OutputText

from .test_detokenizer import some_ids

FAST = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def run(tokenizer, ids, stops, min_tokens=0):
    """Push ids one by one and stream after each: the output, the pieces, and whether a stop ended it."""
    output = OutputText(tokenizer, tuple(stops), min_tokens)
    pieces, streamed, stopped = [], [], False
    for token in ids:
        stopped = output.push(token)
        if stopped:
            break
        text, new = output.stream()
        pieces.append(text)
        streamed += new
        assert len(streamed) <= len(output.token_ids)
    stopped = stopped or output.finish()
    text, new = output.stream(final=True)
    return output, "".join([*pieces, text]), [*streamed, *new], stopped


def expected_cut(text, stops):
    """Where the text ends: before the stop string that is complete first, the longest of these."""
    ends = [(text.index(stop) + len(stop), text.index(stop)) for stop in stops if stop in text]
    return min(ends)[1] if ends else None


@FAST
@given(ids=some_ids(), data=st.data())
def test_any_ids_and_stops(tokenizer, ids, data):
    whole = tokenizer.decode(ids)
    inside = st.tuples(st.integers(0, len(whole)), st.integers(1, 5)).map(lambda x: whole[x[0] : x[0] + x[1]])
    stops = data.draw(st.lists(st.one_of(inside, st.text(max_size=2)).filter(bool), max_size=3))
    output, text, streamed, stopped = run(tokenizer, ids, stops)
    cut = expected_cut(whole, stops)
    assert stopped == (cut is not None)
    assert output.text == text == whole[:cut]
    assert output.token_ids == streamed == ids[: len(streamed)]
    if cut is None:
        assert streamed == ids
    else:
        fitting = [n for n in range(len(ids) + 1) if whole[:cut].startswith(tokenizer.decode(ids[:n]))]
        assert len(streamed) == max(fitting)


def push_text(output, tokenizer, text):
    for token in tokenizer.encode(text, add_special_tokens=False):
        if output.push(token):
            return True
    return output.finish()


@pytest.mark.parametrize(
    "text,stops,want",
    [
        ("the pump stops here", ["stop"], "the pump "),
        ("the pump stops here", ["zzz", "here", "p s"], "the pum"),
        ("abc", ["b", "abc"], "a"),
        ("abc", ["bc", "abc"], ""),
        ("aab", ["ab"], "a"),
        ("ababac", ["abac"], "ab"),
        ("x🙂y", ["🙂"], "x"),
        ("x🙂y", ["y"], "x🙂"),
        ("naïve", ["ï"], "na"),
        ("one\n\ntwo", ["\n\n"], "one"),
        ("no end", ["end of text"], "no end"),
    ],
)
def test_texts_and_stops(tokenizers, text, stops, want):
    tokenizer = tokenizers["byte-level"]
    output = OutputText(tokenizer, tuple(stops))
    assert push_text(output, tokenizer, text) == (want != text)
    assert output.text == want
    assert want.startswith(tokenizer.decode(output.token_ids))


def test_a_character_that_ends_the_text_takes_all_its_tokens_with_it(tokenizers):
    tokenizer = tokenizers["byte-level"]
    x, smile = tokenizer.encode("x"), tokenizer.encode("🙂")
    assert len(smile) > 1
    for ids, stop, kept in ((x + smile + x, "🙂", x), (x + smile + x + smile, "x🙂", []), (smile + x, "x", smile)):
        output, text, streamed, _ = run(tokenizer, ids, [stop])
        assert output.token_ids == streamed == kept
        assert text == tokenizer.decode(kept)


def test_special_tokens_before_the_stop_are_kept(tokenizers):
    tokenizer = tokenizers["byte-level"]
    special, [x], [y] = min(tokenizer.special_ids), tokenizer.encode("x"), tokenizer.encode("y")
    output, _, streamed, _ = run(tokenizer, [x, special, y, special], ["y"])
    assert output.token_ids == streamed == [x, special]


def test_what_may_become_a_stop_is_held_back(tokenizers):
    tokenizer = tokenizers["byte-level"]
    output = OutputText(tokenizer, ("abab", "b\n"))
    streamed = []
    for char in "aabaabx":
        [token] = tokenizer.encode(char)
        assert not output.push(token)
        streamed.append(output.stream()[0])
    assert streamed == ["", "a", "", "", "aba", "", "abx"]


@pytest.mark.parametrize("min_tokens,want", [(0, "a"), (1, "a"), (2, "axa"), (3, "axa"), (4, "axaxa")])
def test_stop_strings_complete_within_min_tokens_do_not_count(tokenizers, min_tokens, want):
    """As in vLLM: a stop string must be completed by a token after the first ``min_tokens``."""
    tokenizer = tokenizers["byte-level"]
    ids = [tokenizer.encode(char)[0] for char in "axaxa"]
    output, text, streamed, stopped = run(tokenizer, ids, ["x"], min_tokens)
    assert (text, stopped) == (want, want != "axaxa")
    assert output.token_ids == streamed == ids[: len(want)]


def test_a_stop_string_may_begin_within_min_tokens(tokenizers):
    tokenizer = tokenizers["byte-level"]
    ids = [tokenizer.encode(char)[0] for char in "abcd"]
    assert run(tokenizer, ids, ["bc"], 2)[1] == "a"
    assert run(tokenizer, ids, ["bc"], 3)[1] == "abcd"


def test_min_tokens_with_text_still_held_back_at_the_end(tokenizers):
    tokenizer = tokenizers["byte-level"]
    broken = tokenizer.encode("🙂")[:1]
    assert run(tokenizer, broken, ["\ufffd"], 0)[1:] == ("", [], True)
    assert run(tokenizer, broken, ["\ufffd"], 1)[1:] == ("\ufffd", broken, False)


def test_a_stop_token_shows_no_text(tokenizers):
    tokenizer = tokenizers["byte-level"]
    [x], half = tokenizer.encode("x"), tokenizer.encode("🙂")[:1]
    output = OutputText(tokenizer, ("q",))
    for token in [x, *half]:
        output.push(token)
    output.push_silent(5)
    assert not output.finish()
    assert (output.text, output.token_ids) == ("x\ufffd", [x, *half, 5])
    assert output.stream(final=True) == ("x\ufffd", [x, *half, 5])
