"""Requests and settings that cannot be: one typed line each, and nothing is run."""

import random

import numpy as np
import pytest

from alorakit.engine.adapters import find_last
from alorakit.engine.errors import AdapterNotFoundError, AlorakitError, ConfigError, RequestError
from alorakit.engine.request import SamplingParams

from .test_engine import PROMPT, greedy


@pytest.mark.parametrize("length", [64, 65, 500])
def test_prompt_longer_than_the_window_or_the_cache(tiny_engine, length):
    engine = tiny_engine(max_model_len=64)
    with pytest.raises(RequestError, match=f"{length} tokens.*context window is 64"):
        engine.generate([5] * length)
    small = tiny_engine(cache_blocks=3)
    with pytest.raises(RequestError, match="the cache holds 48"):
        small.generate([5] * length)
    assert small.generate([5] * 47, greedy(max_tokens=1))[0].finish_reason == "length"


def test_one_bad_prompt_runs_none_of_the_call(tiny_engine):
    engine = tiny_engine()
    with pytest.raises(RequestError, match="prompt is empty"):
        engine.generate([PROMPT, []])
    assert engine.stats().tokens_computed == 0
    assert engine.generate([]) == []


@pytest.mark.parametrize(
    "call,match",
    [
        (lambda e: e.generate([600]), "token id 600 must be an integer from 0 to 511"),
        (lambda e: e.generate([-1]), "token id -1"),
        (lambda e: e.generate([[1, "a"]]), "token id 'a'"),
        (lambda e: e.generate([[1, True]]), "token id True"),
        (lambda e: e.generate([[1, 2**70]]), "token id 1180591620717411303424"),
        (lambda e: e.generate([[1, 2.0]]), "token id 2.0"),
        (lambda e: e.generate([3.5]), "not float"),
        (lambda e: e.generate([PROMPT, PROMPT], [SamplingParams()]), "sampling has 1 entries for 2 prompts"),
        (lambda e: e.generate(PROMPT, adapter=["a", "b"]), "adapter has 2 entries for 1 prompts"),
        (lambda e: e.score(PROMPT, []), "non-empty list"),
        (lambda e: e.score(PROMPT, "yes"), "non-empty list"),
        (lambda e: e.score(PROMPT, ["a", ""], end=False), "no token"),
        (lambda e: e.stream(PROMPT, SamplingParams(n=2)), "n=2 cannot be streamed"),
        (lambda e: SamplingParams(temperature=-1), "temperature=-1"),
        (lambda e: SamplingParams(temperature=float("nan")), "temperature=nan"),
        (lambda e: SamplingParams(max_tokens=0), "max_tokens=0"),
        (lambda e: SamplingParams(max_tokens=2.5), "max_tokens=2.5"),
        (lambda e: SamplingParams(top_p=0.0), "top_p=0.0"),
        (lambda e: SamplingParams(stop=["a", ""]), "stop="),
    ],
)
def test_bad_requests(tiny_engine, call, match):
    with pytest.raises(RequestError, match=match) as caught:
        call(tiny_engine())
    assert "\n" not in str(caught.value)


def test_unknown_adapter_and_taken_name(tiny_engine, tiny_models, make_adapter):
    engine = tiny_engine()
    with pytest.raises(AdapterNotFoundError, match="no adapter named 'x'; registered: none"):
        engine.generate(PROMPT, adapter="x")
    with pytest.raises(KeyError):
        engine.remove_adapter("x")
    path = make_adapter(tiny_models["llama"])
    engine.add_adapter("x", path)
    with pytest.raises(AlorakitError, match="already registered"):
        engine.add_adapter("x", path)


@pytest.mark.parametrize(
    "config,match",
    [
        ({"dtype": "float16"}, "dtype='float16'"),
        ({"device": "tpu"}, "device='tpu'"),
        ({"device": "cuda:7"}, "not available"),
        ({"block_size": 0}, "block_size=0"),
        ({"memory_fraction": 2.0}, "memory_fraction=2.0"),
        ({"max_model_len": 100000}, "above the model's limit of 512"),
        ({"on_missing_invocation": "maybe"}, "on_missing_invocation='maybe'"),
    ],
)
def test_bad_settings(tiny_engine, config, match):
    with pytest.raises(ConfigError, match=match):
        tiny_engine(**config)


def test_unknown_keyword_is_a_type_error(tiny_models):
    from alorakit import Engine

    with pytest.raises(TypeError, match="blok_size"):
        Engine.from_pretrained(tiny_models["llama"], blok_size=3)


@pytest.mark.parametrize(
    "call",
    [
        lambda e: e.generate(None),
        lambda e: e.generate(b"hi"),
        lambda e: e.generate({5: 1}),
        lambda e: e.generate(PROMPT, 5),
        lambda e: e.generate(PROMPT, {"max_tokens": 3}),
        lambda e: e.generate(PROMPT, adapter=[["a"]]),
        lambda e: e.generate(PROMPT, SamplingParams(min_tokens=1, stop_token_ids=[99999])),
        lambda e: SamplingParams(stop_token_ids=["a"]),
        lambda e: SamplingParams(stop_token_ids=5),
        lambda e: SamplingParams(stop=5),
        lambda e: SamplingParams(temperature=float("inf")),
        lambda e: SamplingParams(temperature=10**400),
        lambda e: e.score(PROMPT, (c for c in "ab")),
        lambda e: e.score(PROMPT, ["a", 5]),
    ],
)
def test_arguments_of_the_wrong_kind(tiny_engine, call):
    engine = tiny_engine()
    with pytest.raises(RequestError):
        call(engine)
    assert engine.stats().tokens_computed == 0


def test_integers_of_numpy_are_token_ids(tiny_engine):
    engine = tiny_engine()
    want = engine.generate(PROMPT, greedy())[0].token_ids
    assert engine.generate([np.int64(token) for token in PROMPT], greedy())[0].token_ids == want


@pytest.mark.parametrize("seed", range(20))
def test_the_last_occurrence_is_found(seed):
    rng = random.Random(seed)
    tokens = [rng.randrange(3) for _ in range(rng.randrange(40))]
    pattern = tuple(rng.randrange(3) for _ in range(rng.randrange(1, 5)))
    found = [i for i in range(len(tokens)) if tuple(tokens[i : i + len(pattern)]) == pattern]
    assert find_last(tokens, pattern) == (found[-1] if found else None)
