"""Structured output: random models say only what fits and end when it is complete; refusals come before that."""

import json
import re

import pytest

from alorakit.engine.errors import RequestError
from alorakit.engine.request import SamplingParams
from alorakit.engine.structured import Grammars, Matcher

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


@pytest.mark.parametrize(
    "grammar", [["yes", "<think>x"], ["x<|im_end|>y"], r"a<\|im_start\|>", {"const": "<think>"}], ids=str
)
def test_texts_of_special_tokens_are_refused(tiny_engine, grammar):
    with pytest.raises(RequestError, match="one of its own tokens"):
        tiny_engine().generate(PROMPT, SamplingParams(structured=grammar))
