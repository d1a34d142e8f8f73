"""Text of a stream of ids: nothing is taken back, and the pieces are what the ids decode to together."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alorakit.engine.detokenizer import IncrementalDetokenizer

FAST = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def some_ids(max_size: int = 40) -> st.SearchStrategy[list[int]]:
    """Ids of either tokenizer: any, bytes that are mostly no UTF-8, and ids beyond the vocabulary."""
    return st.lists(st.one_of(st.integers(0, 450), st.integers(130, 262)), max_size=max_size)


@FAST
@given(ids=some_ids(), cuts=st.lists(st.integers(0, 5), max_size=40))
def test_pieces_add_up_to_the_whole_and_are_never_taken_back(tokenizer, ids, cuts):
    stream, shown, rest = IncrementalDetokenizer(tokenizer), "", list(ids)
    whole = tokenizer.decode(ids)
    for size in [*cuts, len(ids)]:
        shown += stream.push(rest[:size])
        rest = rest[size:]
        assert whole.startswith(shown)
    assert shown + stream.flush() == whole


@FAST
@given(ids=st.lists(st.integers(130, 262), min_size=30, max_size=80))
def test_long_runs_that_are_no_utf8(tokenizer, ids):
    stream, shown = IncrementalDetokenizer(tokenizer), ""
    for token in ids:
        shown += stream.push([token])
    assert shown + stream.flush() == tokenizer.decode(ids)


@FAST
@given(text=st.text(max_size=30))
def test_text_comes_out_whole_characters_at_a_time(tokenizer, text):
    stream, shown = IncrementalDetokenizer(tokenizer), ""
    ids = tokenizer.encode(text)
    whole = tokenizer.decode(ids)
    for token in ids:
        shown += stream.push([token])
        assert whole.startswith(shown)
    assert shown + stream.flush() == whole


def test_an_unfinished_character_is_held_back(tokenizers):
    tokenizer = tokenizers["byte-level"]
    *head, last = tokenizer.encode("🙃")
    assert head, "the character must take several tokens"
    stream = IncrementalDetokenizer(tokenizer)
    assert stream.push(head) == ""
    assert stream.push([last]) == "🙃"
    assert stream.push(head) == ""
    assert stream.flush() == "\ufffd"
    assert stream.flush() == ""


def test_a_run_of_bytes_is_held_back_until_it_ends(tokenizers):
    """One byte more turns all of a run into U+FFFD, so none of it is final before."""
    tokenizer = tokenizers["byte-fallback"]
    euro = [tokenizer._backend.token_to_id(f"<0x{byte:02X}>") for byte in "€".encode()]
    [a] = [tokenizer._backend.token_to_id("a")]
    stream = IncrementalDetokenizer(tokenizer)
    assert [stream.push([t]) for t in [a, *euro, *euro, a]] == ["a", "", "", "", "", "", "", "€€a"]
    assert [stream.push([t]) for t in [*euro, euro[0], a]] == ["", "", "", "", "\ufffd" * 4 + "a"]
    assert stream.push(euro) + stream.flush() == "€"


def test_the_first_space_goes_and_the_others_stay(tokenizers):
    tokenizer = tokenizers["byte-fallback"]
    ids = tokenizer.encode("a b  ab", add_special_tokens=False)
    stream = IncrementalDetokenizer(tokenizer)
    assert "".join(stream.push([t]) for t in ids) + stream.flush() == "a b  ab"


def test_the_window_stays_short(tokenizer):
    stream = IncrementalDetokenizer(tokenizer)
    lengths = []
    ids = tokenizer.encode("The pump vibrates. a ab \n" * 50) + sorted(tokenizer.special_ids) * 50 + [9999] * 50
    for token in ids:
        stream.push([token])
        lengths.append(len(stream._window))
    assert max(lengths) <= (3 if not tokenizer.byte_ids else 20)


def test_the_window_stays_short_on_bytes_that_are_no_utf8(tokenizers):
    tokenizer = tokenizers["byte-level"]
    stream, [broken] = IncrementalDetokenizer(tokenizer), [tokenizer.encode("🙃")[0]]
    lengths = []
    for _ in range(200):
        stream.push([broken])
        lengths.append(len(stream._window))
    assert max(lengths) <= 20


@pytest.mark.parametrize("num_broken", range(10, 40))
def test_characters_after_bytes_that_are_no_utf8(tokenizers, num_broken):
    """Whatever the window's length when they come, none is cut."""
    tokenizer = tokenizers["byte-level"]
    smile = tokenizer.encode("🙃")
    assert len(smile) >= 3
    ids = smile[:1] * num_broken + smile * 3
    stream = IncrementalDetokenizer(tokenizer)
    assert "".join(stream.push([t]) for t in ids) + stream.flush() == tokenizer.decode(ids)
    assert tokenizer.decode(ids).count("🙃") == 3
