from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alorakit.engine.detokenizer import IncrementalDetokenizer
from alorakit.engine.tokenizer import Tokenizer

VOCAB = 400


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer_dir: Path) -> Tokenizer:
    return Tokenizer.from_pretrained(tiny_tokenizer_dir)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pushes=st.lists(st.lists(st.integers(0, VOCAB), max_size=4), max_size=30))
def test_pushes_and_flush_add_up(tokenizer: Tokenizer, pushes: list[list[int]]) -> None:
    stream = IncrementalDetokenizer(tokenizer)
    text = "".join(stream.push(ids) for ids in pushes) + stream.flush()
    assert text == tokenizer.decode([token for ids in pushes for token in ids])


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=30))
def test_text_comes_out_whole_characters_at_a_time(tokenizer: Tokenizer, text: str) -> None:
    stream, shown = IncrementalDetokenizer(tokenizer), ""
    for token in tokenizer.encode(text):
        shown += stream.push([token])
        assert text.startswith(shown)
    assert shown + stream.flush() == text


def test_an_unfinished_character_is_held_back(tokenizer: Tokenizer) -> None:
    *head, last = tokenizer.encode("🙃")
    assert head, "the character must take several tokens"
    stream = IncrementalDetokenizer(tokenizer)
    assert stream.push(head) == ""
    assert stream.push([last]) == "🙃"
    assert stream.push(head) == ""
    assert stream.flush() == "\ufffd"
    assert stream.flush() == ""


def test_the_window_stays_short(tokenizer: Tokenizer) -> None:
    stream = IncrementalDetokenizer(tokenizer)
    lengths = []
    for token in tokenizer.encode("The pump vibrates. " * 50) + sorted(tokenizer.special_ids) * 50:
        stream.push([token])
        lengths.append(len(stream._window))
    assert max(lengths) <= 3
