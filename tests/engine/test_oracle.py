"""Whatever arrives, leaves, is swapped, evicted or preempted: every answer is the one computed with no cache at all."""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alorakit.engine.request import SamplingParams

from .conftest import ALL_SEVEN, INVOCATION
from .oracle import Oracle

rng = random.Random(5)
CONTEXTS = [[rng.randrange(10, 300) for _ in range(size)] for size in (9, 23, 40)]
CONTEXTS.append([*CONTEXTS[2][:17], 11, 12, 13])
SUFFIXES = [[], [50], [51, 52, 53], [*INVOCATION, 54], [50, *INVOCATION], [51, 52, *INVOCATION, 55]]
NAMES = [None, "alora", "other", "lora"]

requests = st.tuples(
    st.just("request"),
    st.sampled_from(CONTEXTS),
    st.sampled_from(SUFFIXES),
    st.sampled_from(NAMES),
    st.integers(1, 12),
    st.integers(-1, 1),
)
actions = st.one_of(
    requests,
    requests,
    st.tuples(st.just("step"), st.integers(1, 4)),
    st.tuples(st.just("abort"), st.integers(0, 10)),
    st.tuples(st.just("replace"), st.sampled_from(NAMES[1:]), st.integers(0, 1)),
)
configs = st.fixed_dictionaries(
    {
        "block_size": st.sampled_from([1, 4, 16]),
        "cache_tokens": st.sampled_from([64, 80, 2048]),
        "max_num_batched_tokens": st.sampled_from([7, 32, 1024]),
        "max_num_seqs": st.sampled_from([1, 3, 64]),
        "max_adapters": st.sampled_from([1, 2, 8]),
    }
)


@pytest.fixture(scope="module")
def folders(tiny_models, make_adapter):
    """Two sets of weights for each name."""
    base = tiny_models["llama"]
    return {
        "alora": [make_adapter(base, seed=1), make_adapter(base, seed=11)],
        "other": [make_adapter(base, seed=2, rank=4, targets=ALL_SEVEN), make_adapter(base, seed=12, rank=16)],
        "lora": [make_adapter(base, seed=3, invocation=None), make_adapter(base, seed=13, invocation=None)],
    }


@pytest.fixture(scope="module")
def oracle(tiny_models):
    return Oracle(tiny_models["llama"])


@given(st.lists(actions, min_size=4, max_size=24), configs)
@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_every_answer_is_the_oracles(tiny_engine, folders, oracle, script, config):
    size = config["block_size"]
    engine = tiny_engine(
        "llama",
        on_missing_invocation="base",
        cache_blocks=config["cache_tokens"] // size,
        **{k: v for k, v in config.items() if k != "cache_tokens"},
    )
    weights = {}
    for name, (first, _) in folders.items():
        engine.add_adapter(name, first)
        weights[name] = first
    asked, answered = {}, {}

    def collect(outputs):
        for output in outputs:
            assert output.request_id not in answered
            answered[output.request_id] = output
        engine.check_integrity()

    for action, *details in script:
        if action == "request":
            context, suffix, name, num, priority = details
            params = SamplingParams(max_tokens=num, ignore_eos=True)
            request = engine.add_request(context + suffix, params, name, priority)
            asked[request] = (context + suffix, weights.get(name), num)
        elif action == "step":
            for _ in range(details[0]):
                collect(engine.step())
        elif action == "abort" and set(asked) - set(answered):
            open_ids = sorted(set(asked) - set(answered))
            engine.abort(open_ids[details[0] % len(open_ids)])
        elif action == "replace":
            name, which = details
            weights[name] = folders[name][which]
            engine.add_adapter(name, weights[name], replace=True)
    for _ in range(600):
        if not engine.has_unfinished:
            break
        collect(engine.step())
    assert set(answered) == set(asked)
    for request, output in answered.items():
        prompt, adapter, num = asked[request]
        assert output.finish_reason in ("length", "abort")
        assert output.error is None
        want = oracle.generate(prompt, adapter, num)
        assert output.token_ids == (want if output.finish_reason == "length" else want[: len(output.token_ids)])
    stats = engine.stats()
    assert stats.blocks_free + stats.blocks_cached == stats.blocks_total
    engine.close()
