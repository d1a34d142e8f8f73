"""Grammars and matchers by themselves: masks, end of sequence, what is kept."""

import pytest
import torch
from llguidance import LLExecutor

from alorakit.engine import structured
from alorakit.engine.errors import RequestError
from alorakit.engine.request import SamplingParams
from alorakit.engine.structured import Grammars, forbidden_tokens
from alorakit.engine.tokenizer import Tokenizer


@pytest.fixture
def grammars(tiny_tokenizer_dir):
    tokenizer = Tokenizer.from_pretrained(tiny_tokenizer_dir)
    return Grammars(tokenizer, 512, frozenset({tokenizer.eos_token_id}))


def allowed(matcher, completion):
    matcher.advance(completion)
    forbidden = forbidden_tokens(LLExecutor(1), [matcher], torch.device("cpu"))[0]
    assert forbidden.shape == (512,)
    return (~forbidden).nonzero()[:, 0].tolist()


def test_masks_follow_the_tokens_and_end_with_end_of_sequence(grammars):
    tokenizer = grammars._tokenizer
    matcher = grammars.matcher(SamplingParams(structured="a[bc]"))
    a, b, c = (tokenizer.encode(text)[0] for text in "abc")
    assert a in allowed(matcher, [])
    assert {b, c} == set(allowed(matcher, [a]))
    assert allowed(matcher, [a, c]) == allowed(matcher, [a, c]) == [tokenizer.eos_token_id]
    assert not matcher.is_complete([a, c])  # the model says so itself
    with pytest.raises(RequestError, match=r"failed after 3 tokens: .*; simplify the grammar"):
        matcher.advance([a, c, a])


def test_special_and_padded_ids_are_never_text(grammars):
    tokenizer = grammars._tokenizer
    found = allowed(grammars.matcher(SamplingParams(structured=r"(?s:.*)")), [])
    assert set(found) & (tokenizer.special_ids | set(range(tokenizer.vocab_size, 512))) == {tokenizer.eos_token_id}


def test_grammars_are_kept_by_their_source(grammars, monkeypatch):
    compiled = []
    compile_ = grammars._compile
    monkeypatch.setattr(grammars, "_compile", lambda *source: (compiled.append(source[1]), compile_(*source))[1])
    monkeypatch.setattr(structured, "MAX_GRAMMARS", 2)
    for pattern in ("a", "b", "a", "c", "a", "b"):
        grammars.matcher(SamplingParams(structured=pattern))
    assert compiled == ["a", "b", "c", "b"]
    for schema in ({"enum": [1, 2]}, {"enum": [1, 2]}, {"enum": [2, 1]}):
        grammars.matcher(SamplingParams(structured=schema))
    assert len(compiled) == 6
    assert len(grammars._compiled) == 2


def test_a_grammar_that_ran_into_a_limit_is_compiled_anew(grammars):
    """llguidance takes this pattern, and gives up on it while matching."""
    params = SamplingParams(structured="((x{1,1000}){1,1000}){1,1000}")
    [x] = grammars._tokenizer.encode("x")
    first = grammars.matcher(params)
    with pytest.raises(RequestError, match=r"failed after 50 tokens: .*lexer"):
        first.advance([x] * 50)
    assert grammars.matcher(params).grammar is not first.grammar


def test_a_model_without_end_of_sequence(tiny_tokenizer_dir):
    tokenizer = Tokenizer.from_pretrained(tiny_tokenizer_dir)
    for vocab_size in (tokenizer.vocab_size, 512):
        grammars = Grammars(tokenizer, vocab_size, frozenset())
        matcher = grammars.matcher(SamplingParams(structured="ab?"))
        a, b = tokenizer.encode("a")[0], tokenizer.encode("b")[0]
        matcher.advance([a])
        forbidden = forbidden_tokens(LLExecutor(1), [matcher], torch.device("cpu"))[0]
        assert (~forbidden).nonzero()[:, 0].tolist() == [b]
        assert not matcher.is_complete([a]) and matcher.is_complete([a, b])
        with pytest.raises(RequestError, match="no token of the model may begin"):
            grammars.matcher(SamplingParams(structured="(?:)"))


def test_a_tokenizer_llguidance_cannot_read_is_an_error_of_the_request(tmp_path):
    from tokenizers import Tokenizer as Backend
    from tokenizers import models

    Backend(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]")).save(str(tmp_path / "tokenizer.json"))
    grammars = Grammars(Tokenizer.from_pretrained(tmp_path), 2, frozenset({1}))
    with pytest.raises(RequestError, match="cannot be had with this model's tokenizer"):
        grammars.matcher(SamplingParams(structured="a"))
    assert grammars.matcher(SamplingParams()) is None


def test_json_has_one_space_at_most(grammars):
    matcher = grammars.matcher(SamplingParams(structured={"type": "array", "items": {"type": "null"}}))
    tokenizer = grammars._tokenizer
    opening = tokenizer.encode("[ ")
    assert not any(tokenizer.decode([t]).startswith((" ", "\n")) for t in allowed(matcher, opening))
