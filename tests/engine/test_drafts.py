"""Drafts from past answers: the same answers in fewer passes."""

import pytest

from alorakit.engine.request import SamplingParams

from .conftest import INVOCATION
from .test_parity import prompt_with


@pytest.fixture
def engines(tiny_engine, tiny_models, make_adapter):
    path = make_adapter(tiny_models["llama"], seed=1)

    def make(**config):
        engine = tiny_engine("llama", **config)
        engine.add_adapter("a", path)
        return engine

    return make


def count_passes(engine, monkeypatch):
    passes = []
    run = engine._runner.run
    monkeypatch.setattr(engine._runner, "run", lambda batch: (passes.append(len(batch.token_ids)), run(batch))[1])
    return passes


def test_a_repeated_answer_takes_fewer_passes_and_is_the_same(engines, monkeypatch):
    prompt = [*prompt_with(1, 0, 37), *INVOCATION]
    params = SamplingParams(max_tokens=8, ignore_eos=True, logprobs=3)
    engine, plain = engines(), engines(max_draft_tokens=0)
    (want,) = plain.generate(prompt, params, adapter="a")
    passes = count_passes(engine, monkeypatch)
    for expected in ([len(prompt)] + [1] * 7, [1] * 8, [8]):
        passes.clear()
        (output,) = engine.generate(prompt, params, adapter="a")
        engine.check_integrity()
        assert passes == expected
        assert output.token_ids == want.token_ids
        assert output.text == want.text
        for got, wanted in zip(output.logprobs, want.logprobs, strict=True):
            assert got == pytest.approx(wanted, abs=1e-3)


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(max_tokens=24, ignore_eos=True),
        SamplingParams(max_tokens=24, temperature=0.6, seed=4, ignore_eos=True),
        SamplingParams(max_tokens=24, frequency_penalty=0.4, repetition_penalty=1.2, min_tokens=5),
        SamplingParams(max_tokens=24, stop="e", ignore_eos=True),
    ],
    ids=["greedy", "sampled", "penalties", "stop"],
)
def test_wrong_drafts_change_nothing(engines, monkeypatch, params):
    """Every past answer is the right one but for some tokens: drafts are accepted in part, and rejected."""
    prompts = [[*prompt_with(seed, 0, 30), *INVOCATION] for seed in range(3)]
    engine, plain = engines(block_size=8), engines(max_draft_tokens=0)
    want = [o.token_ids for o in plain.generate(prompts, params, adapter="a")]
    digest = engine.adapters["a"].digest
    for ids in want:
        wrong = [t if i % 4 else (t + 1) % 300 for i, t in enumerate(ids, start=1)]
        engine.scheduler.answers.add(digest, wrong)
        engine.scheduler.answers.add(digest, wrong)
    monkeypatch.setattr(engine.scheduler.answers, "add", lambda digest, answer: None)
    passes = count_passes(engine, monkeypatch)
    for _ in range(2):
        assert [o.token_ids for o in engine.generate(prompts, params, adapter="a")] == want
        engine.check_integrity()
        assert max(passes[1:]) > len(prompts)  # drafts did enter
    follow = [[*p, *ids] for p, ids in zip(prompts, want, strict=True)]
    outputs = engine.generate(follow, params, adapter="a")
    assert [o.token_ids for o in outputs] == [o.token_ids for o in plain.generate(follow, params, adapter="a")]
    assert all(o.usage.cached_tokens >= len(f) - 1 for o, f in zip(outputs, follow, strict=True))


def test_an_answer_given_once_is_not_guessed(engines, monkeypatch):
    engine = engines()
    passes = count_passes(engine, monkeypatch)
    for seed in range(4):
        prompt = [*prompt_with(seed, 0, 30), *INVOCATION]
        passes.clear()
        engine.generate(prompt, SamplingParams(max_tokens=5, ignore_eos=True), adapter="a")
        assert passes == [len(prompt), 1, 1, 1, 1]


def test_drafts_stop_at_the_context_window(engines):
    prompt = [*prompt_with(1, 0, 29), *INVOCATION]
    engine = engines(max_model_len=40)
    params = SamplingParams(max_tokens=50, ignore_eos=True)
    outputs = [engine.generate(prompt, params, adapter="a")[0] for _ in range(4)]
    assert {(tuple(o.token_ids), o.finish_reason) for o in outputs} == {(tuple(outputs[0].token_ids), "length")}
    assert len(outputs[0].token_ids) == 8
