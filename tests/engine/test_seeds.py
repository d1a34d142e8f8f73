"""A seed gives the same samples whatever else is in the batch, with preemptions and drafts; without one they differ."""

import pytest

from alorakit.engine.request import SamplingParams

from .conftest import INVOCATION
from .test_drafts import count_passes
from .test_parity import prompt_with

PROMPT = prompt_with(1, 0, 20)


def sampled(**kwargs):
    return SamplingParams(ignore_eos=True, **({"max_tokens": 24, "temperature": 1.3, "seed": 11, "n": 3} | kwargs))


@pytest.mark.parametrize(
    "kwargs", [{}, {"top_p": 0.9}, {"top_k": 40, "min_p": 0.01, "frequency_penalty": 0.3}], ids=str
)
def test_the_batch_and_preemption_do_not_matter(tiny_engine, kwargs):
    params = sampled(**kwargs)
    want = [o.token_ids for o in tiny_engine().generate(PROMPT, params)]
    assert len({tuple(ids) for ids in want}) == 3
    others = [prompt_with(seed, 0, 20) for seed in (2, 3)]
    mixed = [sampled(temperature=0.0, n=2), params, sampled(seed=None, top_k=7)]
    for config in ({}, {"max_num_seqs": 2}, {"cache_blocks": 9}, {"max_num_batched_tokens": 7}):
        engine = tiny_engine(**config)
        outputs = engine.generate([others[0], PROMPT, others[1]], mixed)
        assert [o.token_ids for o in outputs if o.prompt_index == 1] == want
        if "cache_blocks" in config:
            assert engine.stats().preemptions > 0


def test_drafts_do_not_matter(tiny_engine, tiny_models, make_adapter, monkeypatch):
    path, prompt = make_adapter(tiny_models["llama"], seed=1), [*PROMPT, *INVOCATION]
    answers, passes = [], []
    for max_draft_tokens in (0, 8):
        engine = tiny_engine(max_draft_tokens=max_draft_tokens)
        engine.add_adapter("a", path)
        passes.append(count_passes(engine, monkeypatch))
        for _ in range(4):
            answers.append([o.token_ids for o in engine.generate(prompt, sampled(n=1), adapter="a")])
    assert len(passes[1]) < len(passes[0]) - 24
    assert all(answer == answers[0] for answer in answers)


def test_samples_and_seeds_differ_and_none_is_random(tiny_engine):
    engine = tiny_engine()
    runs = [engine.generate(PROMPT, sampled(seed=seed)) for seed in (0, 1, 2**64 - 1, None, None)]
    assert len({tuple(o.token_ids) for outputs in runs for o in outputs}) == 15


def test_first_tokens_follow_the_models_distribution(tiny_engine):
    """2,560 samples against the model's own probabilities; chi-square over the 12 most likely tokens and the rest.

    12 degrees of freedom: p = 1e-6 at 50.
    """
    engine = tiny_engine()
    [reported] = engine.generate(PROMPT, SamplingParams(max_tokens=1, logprobs=12))
    params = [SamplingParams(max_tokens=1, temperature=1.0, seed=seed, n=256, ignore_eos=True) for seed in range(10)]
    tokens = [o.token_ids[0] for o in engine.generate([PROMPT] * 10, params)]
    probabilities = {token: 2.718281828459045**value for token, value in reported.logprobs[0].items()}
    observed = [tokens.count(token) for token in probabilities]
    expected = [p * len(tokens) for p in probabilities.values()]
    observed.append(len(tokens) - sum(observed))
    expected.append(len(tokens) - sum(expected))
    assert min(expected) > 5
    assert sum((o - e) ** 2 / e for o, e in zip(observed, expected, strict=True)) < 50
