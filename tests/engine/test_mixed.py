"""Generations and scores of several adapters in one batch: the same answers as one by one, in fewer steps."""

import asyncio

import pytest

from alorakit import AsyncEngine, SamplingParams
from alorakit.engine.errors import AdapterNotFoundError, ClosedError, RequestError
from alorakit.engine.mixed import GenerateRequest, ScoreRequest

INVOCATION = [301, 17, 302]  # of the adapters that make_adapter makes


@pytest.fixture
def engine(tiny_engine, tiny_models, make_adapter):
    engine = tiny_engine(block_size=8)
    for seed in range(2):
        engine.add_adapter(f"a{seed}", make_adapter(tiny_models["llama"], seed=seed))
    return engine


def requests():
    context = list(range(10, 50))
    asked = [*context, *INVOCATION]
    return [
        ScoreRequest(asked, ["yes", "no"], "a0"),
        ScoreRequest([*context, 7, *INVOCATION], ["maybe", "no", "never"], "a1"),
        ScoreRequest(context, ["yes", "no"], None, end=False),
        GenerateRequest(asked, SamplingParams(max_tokens=4, ignore_eos=True), "a1"),
        GenerateRequest(context),
    ]


def plain(answer):
    if isinstance(answer, list):
        return [(score.text, pytest.approx(score.logprob, abs=1e-4)) for score in answer]
    return answer.token_ids


def test_the_answers_are_those_of_one_by_one(engine):
    together = engine.batch(requests())
    alone = [answer for request in requests() for answer in engine.batch([request])]
    assert [plain(answer) for answer in alone] == [plain(answer) for answer in together]
    assert [answer.prompt_index for answer in together[3:]] == [3, 4]
    engine.check_integrity()


def test_the_context_is_computed_once(engine):
    before = engine.stats()
    engine.batch(requests()[:3])
    after = engine.stats()
    assert after.steps - before.steps <= 3
    # 40 tokens of context once; 40 thrice would be 120.
    assert after.tokens_computed - before.tokens_computed < 40 + 3 * 14


def test_concurrent_batches(engine):
    async def run():
        async with AsyncEngine(engine) as served:
            return await asyncio.gather(*(served.batch(requests()) for _ in range(4)))

    batches = asyncio.run(run())
    assert all([plain(a) for a in batch] == [plain(a) for a in batches[0]] for batch in batches)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([GenerateRequest("a", SamplingParams(n=2))], "n=2 is above 1"),
        (["a"], "requests\\[0\\]='a' must be a GenerateRequest"),
        (ScoreRequest("a", ["b"]), "must be a list"),
        ([ScoreRequest("a", [])], "candidates"),
    ],
)
def test_a_bad_request_runs_none(engine, wrong, message):
    steps = engine.stats().steps
    with pytest.raises(RequestError, match=message):
        engine.batch(wrong)
    with pytest.raises(AdapterNotFoundError):
        engine.batch([GenerateRequest("a"), GenerateRequest("a", adapter="nobody")])
    assert engine.stats().steps == steps
    assert engine.batch([]) == []


def test_a_closed_engine(engine):
    engine.close()
    with pytest.raises(ClosedError):
        engine.batch([GenerateRequest("a")])


def test_a_request_for_an_adapter_that_was_replaced_is_refused(engine, tiny_models, make_adapter):
    asked = [*range(10, 50), *INVOCATION]
    digest = engine.adapters["a0"].digest
    pinned = [ScoreRequest(asked, ["yes", "no"], "a0", digest=digest), GenerateRequest(asked, None, "a0", digest)]
    assert len(engine.batch(pinned)) == 2
    engine.add_adapter("a0", make_adapter(tiny_models["llama"], seed=5), replace=True)
    for request in pinned:
        with pytest.raises(AdapterNotFoundError, match="'a0' was replaced by another"):
            engine.batch([request])
    engine.check_integrity()
