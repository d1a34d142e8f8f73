"""Structured output: random models say only what fits and end when it is complete; refusals come before that."""

import json
import re

import pytest
import torch
from llguidance import LLExecutor

from alorakit.engine import structured
from alorakit.engine.errors import RequestError
from alorakit.engine.request import SamplingParams
from alorakit.engine.structured import Grammars, Matcher, forbidden_tokens
from alorakit.engine.tokenizer import Tokenizer

from .conftest import INVOCATION
from .test_parity import prompt_with

PROMPT = prompt_with(1, 0, 30)
SCHEMA = {
    "type": "object",
    "properties": {
        "verdict": {"enum": ["yes", "no", 'é"🙂']},
        "score": {"type": "integer", "minimum": 0, "maximum": 99},
        "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
    },
    "required": ["verdict", "score", "tags"],
    "additionalProperties": False,
}
CHOICES = ["yes", "no", "no, never", 'a "quoted"\n\\ line', "🙂"]
REGEX = r"[a-c]{2,5}-(\d\d|é+x)"


def fits(text, grammar):
    if isinstance(grammar, str):
        return re.fullmatch(grammar, text) is not None
    if isinstance(grammar, list):
        return text in grammar
    value = json.loads(text)
    return (
        list(value) == ["verdict", "score", "tags"]
        and value["verdict"] in SCHEMA["properties"]["verdict"]["enum"]
        and value["score"] in range(100)
        and len(value["tags"]) <= 2
    )


@pytest.mark.parametrize("grammar", [SCHEMA, REGEX, CHOICES], ids=["schema", "regex", "choice"])
@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_every_answer_fits(tiny_engine, grammar, temperature):
    engine = tiny_engine()
    params = SamplingParams(max_tokens=300, temperature=temperature, seed=4, n=6, structured=grammar, logprobs=0)
    outputs = engine.generate(PROMPT, params)
    for output in outputs:
        assert fits(output.text, grammar), output.text
        assert output.finish_reason == "stop"
        assert output.token_ids[-1] == engine.tokenizer.eos_token_id
        assert len(output.logprobs) == len(output.token_ids)
    if temperature:
        assert len({o.text for o in outputs}) > 1
    assert engine._sampler.structured_seconds > 0.0


def test_a_batch_of_all_kinds_says_what_each_says_alone(tiny_engine):
    engine = tiny_engine()
    params = [
        SamplingParams(max_tokens=60, temperature=t, seed=3, structured=g, repetition_penalty=1.2)
        for g in (SCHEMA, None, REGEX, CHOICES)
        for t in (0.0, 1.0)
    ]
    prompts = [prompt_with(seed, 0, 20 + seed) for seed in range(len(params))]
    together = engine.generate(prompts, params)
    for prompt, p, output in zip(prompts, params, together, strict=True):
        assert engine.generate(prompt, p)[0].token_ids == output.token_ids


def test_max_tokens_cuts_it_short(tiny_engine):
    engine = tiny_engine()
    for limit in range(1, 5):
        (output,) = engine.generate(PROMPT, SamplingParams(max_tokens=limit, structured="[ab]{40}"))
        assert (output.finish_reason, len(output.token_ids)) == ("length", limit)
        assert re.fullmatch("[ab]{1,40}", output.text)


def test_a_stop_string_ends_it_early(tiny_engine):
    (output,) = tiny_engine().generate(PROMPT, SamplingParams(max_tokens=20, structured="a{5}b{5}", stop="ab"))
    assert (output.text, output.finish_reason) == ("aaaa", "stop")


def test_preemption_does_not_change_the_answers(tiny_engine):
    prompts = [prompt_with(seed, 0, 20) for seed in range(6)]
    params = [
        SamplingParams(max_tokens=40, temperature=1.0, seed=seed, structured=[r"[a-z]{34}", {}][seed % 2])
        for seed in range(6)
    ]
    want = [tiny_engine().generate(p, s)[0].token_ids for p, s in zip(prompts, params, strict=True)]
    small = tiny_engine(cache_blocks=9)
    assert [o.token_ids for o in small.generate(prompts, params)] == want
    assert small.stats().preemptions > 0


def test_no_drafts(tiny_engine, tiny_models, make_adapter):
    engine = tiny_engine()
    engine.add_adapter("a", make_adapter(tiny_models["llama"], seed=1))
    prompt = [*PROMPT, *INVOCATION]
    params = SamplingParams(max_tokens=60, structured=REGEX)
    first = [engine.generate(prompt, params, adapter="a")[0] for _ in range(3)]
    assert len({o.text for o in first}) == 1 and fits(first[0].text, REGEX)
    assert engine.stats().tokens_computed == len(prompt) + 3 * len(first[0].token_ids) - 1


@pytest.mark.parametrize(
    "grammar,match",
    [
        ("a(b", "regex 'a\\(b' cannot be used: .*unclosed group"),
        (r"(?=a)b", "look-around"),
        (r"[^\s\S]", "no token of the model may begin"),
        ({"type": "bogus"}, "JSON schema .* cannot be used: Invalid type: bogus"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"$ref": "https://example.com/schema"}, "example.com"),
        ({"type": "string", "minLength": 3, "maxLength": 1}, "Unsatisfiable"),
        ({"enum": []}, "empty"),
    ],
)
def test_grammars_that_are_refused(tiny_engine, grammar, match):
    engine = tiny_engine()
    with pytest.raises(RequestError, match=match) as caught:
        engine.generate([PROMPT, PROMPT], [SamplingParams(), SamplingParams(structured=grammar)])
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    assert engine.stats().tokens_computed == 0


@pytest.mark.parametrize(
    "kwargs,match",
    [
        ({"structured": []}, "at least one choice"),
        ({"structured": ["a", ""]}, "non-empty texts"),
        ({"structured": ["a", 5]}, "non-empty texts"),
        ({"structured": ""}, "structured='' must be"),
        ({"structured": 5}, "structured=5 must be"),
        ({"structured": True}, "structured=True must be"),
        ({"structured": {"a"}}, "must be a JSON schema"),
        ({"structured": {"enum": [float("nan")]}}, "no JSON"),
        ({"structured": {"enum": [object()]}}, "no JSON"),
        ({"structured": "a\ud800"}, "lone surrogate at character 1"),
        ({"structured": "a" * 300_000}, "300000 characters, but a grammar has at most 262144"),
        ({"structured": ["word"] * 50_000}, "characters, but a grammar has at most"),
        ({"structured": "a", "ignore_eos": True}, "ignore_eos=True forbids"),
        ({"structured": "a", "min_tokens": 2}, "min_tokens=2 forbids"),
    ],
)
def test_structured_values_that_are_refused(kwargs, match):
    with pytest.raises(RequestError, match=match) as caught:
        SamplingParams(**kwargs)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_a_schema_that_contains_itself_is_refused():
    schema = {}
    schema["properties"] = schema
    with pytest.raises(RequestError, match="no JSON"):
        SamplingParams(structured=schema)


def test_values_are_copied():
    schema, choices = {"enum": [1]}, ["a"]
    params = SamplingParams(structured=schema), SamplingParams(structured=choices)
    schema["enum"].append(2)
    choices.append("b")
    assert params[0].structured == {"enum": [1]}
    assert params[1].structured == ("a",) and hash(params[1]) == hash(SamplingParams(structured=["a"]))


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


def test_without_end_of_sequence_the_text_ends_where_the_grammar_does(tiny_engine, monkeypatch):
    engine = tiny_engine()
    for owner in (engine.loop, engine._sampler):
        monkeypatch.setattr(owner, "_eos", frozenset())
    monkeypatch.setattr(engine.intake._admission, "_grammars", Grammars(engine.tokenizer, 512, frozenset()))
    for grammar in (REGEX, CHOICES, SCHEMA):
        (output,) = engine.generate(PROMPT, SamplingParams(max_tokens=200, temperature=1.0, seed=1, structured=grammar))
        assert fits(output.text, grammar)
        assert output.finish_reason == "stop"
        assert engine.tokenizer.decode(output.token_ids) == output.text


def test_one_matcher_that_fails_fails_one_request(tiny_engine, monkeypatch):
    engine = tiny_engine()
    params = SamplingParams(max_tokens=20, structured=REGEX)
    (want,) = engine.generate(PROMPT, params)
    advance = Matcher.advance

    def failing(self, completion):
        if self is victim.matcher and len(completion) == 2:
            raise ZeroDivisionError("boom")
        advance(self, completion)

    monkeypatch.setattr(Matcher, "advance", failing)
    victim, healthy = (engine.intake.requests([PROMPT], params, None)[0] for _ in range(2))
    with pytest.raises(RequestError, match="structured output failed: boom"):
        engine.loop.run([victim, healthy])
    assert isinstance(victim.error.__cause__, ZeroDivisionError)
    assert victim.finish_reason == "error" and len(victim.completion) == 2
    assert healthy.error is None and healthy.completion == want.token_ids


def test_a_grammar_that_becomes_too_complex_fails_one_request(tiny_engine):
    engine = tiny_engine()
    # The penalty makes "x" ever more likely.
    bad = SamplingParams(max_tokens=60, structured="((x{1,1000}){1,1000}){1,1000}y", frequency_penalty=-10.0)
    victim, healthy = (
        engine.intake.requests([PROMPT], params, None)[0]
        for params in (bad, SamplingParams(max_tokens=40, structured=REGEX))
    )
    with pytest.raises(RequestError, match=r"structured output failed after .* tokens"):
        engine.loop.run([victim, healthy])
    assert healthy.error is None and fits(healthy.output.text, REGEX)


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
