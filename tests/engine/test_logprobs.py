"""Log-probabilities of what was decoded are those of the same tokens as a prompt, whatever chose them."""

import pytest

from alorakit.engine.request import SamplingParams

from .conftest import INVOCATION
from .test_parity import prompt_with

PROMPT = prompt_with(1, 0, 24)
WAYS = {
    "greedy": {},
    "sampled": {"temperature": 1.4, "top_p": 0.9, "seed": 5},
    "penalised": {"repetition_penalty": 1.5, "presence_penalty": 1.0, "temperature": 0.7, "seed": 1},
    "early": {"min_tokens": 8, "stop_token_ids": [40, 41]},
    "structured": {"structured": r"[a-f ]{12}", "temperature": 1.0, "seed": 2},
    "n": {"temperature": 2.0, "seed": 0, "n": 3},
}


@pytest.mark.parametrize("adapter", [None, "a"])
@pytest.mark.parametrize("way", WAYS)
def test_decoded_and_read_tokens_have_the_same(way, adapter, tiny_engine, tiny_models, make_adapter):
    engine = tiny_engine()
    prompt = PROMPT
    if adapter is not None:
        engine.add_adapter("a", make_adapter(tiny_models["llama"], seed=1))
        prompt = [*PROMPT, *INVOCATION]
    ask = SamplingParams(max_tokens=20, logprobs=3, prompt_logprobs=3, **WAYS[way])
    for _ in range(3):  # an adapter's answers are drafted the third time
        outputs = engine.generate([prompt_with(2, 0, 9), prompt], [SamplingParams(), ask], adapter=[None, adapter])[1:]
    for output in outputs:
        assert len(output.logprobs) == len(output.token_ids)
        read = SamplingParams(max_tokens=1, prompt_logprobs=3)
        ids = [*prompt, *output.token_ids]
        assert not adapter or ids[-len(INVOCATION) :] != INVOCATION
        (again,) = engine.generate(ids, read, adapter=adapter)
        for token, got, want in zip(
            ids[1:], [*output.prompt_logprobs[1:], *output.logprobs], again.prompt_logprobs[1:], strict=True
        ):
            assert token in got and 3 <= len(got) <= 4
            assert got == pytest.approx(want, abs=1e-3)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_stop_string_cuts_them_where_it_cuts_the_ids(tiny_engine, temperature):
    engine = tiny_engine()
    params = {"max_tokens": 20, "logprobs": 2, "temperature": temperature, "seed": 3, "ignore_eos": True}
    (free,) = engine.generate(PROMPT, SamplingParams(**params))
    for start in range(3, 10):
        (cut,) = engine.generate(PROMPT, SamplingParams(stop=free.text[start : start + 3], **params))
        assert len(cut.token_ids) < 20
        assert cut.token_ids == free.token_ids[: len(cut.token_ids)]
        for got, want in zip(cut.logprobs, free.logprobs[: len(cut.token_ids)], strict=True):
            assert got == pytest.approx(want, abs=1e-3)


def test_none_where_none_are_asked_for(tiny_engine):
    asked = SamplingParams(max_tokens=3, logprobs=0, prompt_logprobs=0, ignore_eos=True)
    plain, both = tiny_engine().generate([PROMPT, PROMPT], [SamplingParams(max_tokens=3), asked])
    assert plain.logprobs is plain.prompt_logprobs is None
    assert [list(row) for row in both.logprobs] == [[token] for token in both.token_ids]
    assert [list(row) for row in both.prompt_logprobs[1:]] == [[token] for token in PROMPT[1:]]
