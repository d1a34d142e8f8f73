"""Sampling parameters: what is refused, in one line that names value and limit, and what numbers become."""

import dataclasses
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

from alorakit.engine.errors import RequestError
from alorakit.engine.request import SamplingParams

NAN, INF = float("nan"), float("inf")
FLOATS = ["temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty"]
INTEGERS = ["max_tokens", "min_tokens", "top_k", "seed", "n", "logprobs", "prompt_logprobs"]


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("value", [NAN, INF, -INF, -11, 1001.0, True, None, "1", Decimal(1), 1j, 10**400, np.nan, [1]])
def test_floats_that_are_refused(name, value):
    with pytest.raises(RequestError, match=rf"^{name}=.* must be a number from -?[\d.]+ to [\d.]+$"):
        SamplingParams(**{name: value})


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize("value", [NAN, INF, -1, True, np.True_, "1", 1.0, np.float64(1), [1]])
def test_integers_that_are_refused(name, value):
    with pytest.raises(RequestError, match=rf"^{name}=.* must be an integer (of at least|from) \d+") as caught:
        SamplingParams(**{name: value})
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("name", ["temperature", "seed"])
def test_a_number_too_long_to_be_shown(name):
    with pytest.raises(RequestError, match=f"{name}=a very long int must be"):
        SamplingParams(**{name: -(10**5000)})


@pytest.mark.parametrize(
    "kwargs,match",
    [
        ({"max_tokens": 0}, "max_tokens=0 must be an integer of at least 1"),
        ({"max_tokens": None}, "max_tokens=None must be"),
        ({"n": 0}, "n=0 must be an integer from 1 to 256"),
        ({"n": 257}, "n=257 must be an integer from 1 to 256"),
        ({"seed": 2**64}, "seed=18446744073709551616 must be an integer from 0 to 18446744073709551615"),
        ({"logprobs": 101}, "logprobs=101 must be an integer from 0 to 100"),
        ({"top_p": 0}, "top_p=0.0 keeps no token; use temperature=0.0"),
        ({"top_p": 1.1}, "top_p=1.1 must be a number from 0.0 to 1.0"),
        ({"temperature": 1e-7}, "temperature=1e-07 is below 1e-06; use temperature=0.0"),
        ({"repetition_penalty": 0}, "repetition_penalty=0 must be a number from 0.01"),
        ({"min_tokens": 17}, "min_tokens=17 is above max_tokens=16; raise max_tokens"),
        ({"ignore_eos": 1}, "ignore_eos=1 must be True or False"),
        ({"ignore_eos": None}, "ignore_eos=None must be True or False"),
        ({"stop": ["a", ""]}, "stop=.* must be at most 64 non-empty texts of at most 1024 characters"),
        ({"stop": ["a"] * 65}, "at most 64"),
        ({"stop": ["a" * 1025]}, "at most 1024 characters"),
        ({"stop": [5]}, "non-empty texts"),
        ({"stop": b"a"}, "stop=b'a' must be a list"),
        ({"stop_token_ids": 5}, "stop_token_ids=5 must be a list"),
        ({"stop_token_ids": [-1]}, "stop_token_ids=-1 must be an integer of at least 0"),
        ({"stop_token_ids": [True]}, "stop_token_ids=True must be an integer"),
    ],
    ids=str,
)
def test_values_that_are_refused(kwargs, match):
    with pytest.raises(RequestError, match=match) as caught:
        SamplingParams(**kwargs)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_numbers_of_numpy_are_numbers():
    given = SamplingParams(
        max_tokens=np.int64(5), min_tokens=np.uint8(2), temperature=np.float32(0.5), top_p=np.float64(0.9),
        top_k=np.int8(3), seed=np.uint64(2**64 - 1), n=np.int32(2), logprobs=np.int64(1), min_p=Fraction(1, 4),
        frequency_penalty=1, stop_token_ids=[np.int64(7)], ignore_eos=np.True_,
    )  # fmt: skip
    want = SamplingParams(
        max_tokens=5, min_tokens=2, temperature=0.5, top_p=0.9, top_k=3, seed=2**64 - 1, n=2, logprobs=1, min_p=0.25,
        frequency_penalty=1.0, stop_token_ids=(7,), ignore_eos=True,
    )  # fmt: skip
    assert given == want and hash(given) == hash(want) and repr(given) == repr(want)
    for field in dataclasses.fields(given):
        assert type(getattr(given, field.name)) is type(getattr(want, field.name))


def test_parameters_are_frozen_and_lists_become_tuples():
    params = SamplingParams(stop=["a"], stop_token_ids=[1])
    assert (params.stop, params.stop_token_ids) == (("a",), (1,))
    assert SamplingParams(stop="ab").stop == ("ab",)
    assert SamplingParams(stop=None, stop_token_ids=None) == SamplingParams()
    with pytest.raises(dataclasses.FrozenInstanceError):
        params.n = 2
    assert dataclasses.replace(params, n=2).stop == ("a",)
