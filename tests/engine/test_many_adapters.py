"""More adapters than fit the device: requests take turns, and every one gets its own adapter's answer."""

import pytest

from alorakit import Engine
from alorakit.engine.errors import ConfigError
from alorakit.engine.request import SamplingParams

from .conftest import ALL_SEVEN
from .test_parity import prompt_with

GREEDY = SamplingParams(max_tokens=6, ignore_eos=True)
NAMES = [f"a{index}" for index in range(5)]


@pytest.fixture(scope="module")
def folders(tiny_models, make_adapter):
    base = tiny_models["llama"]
    return {
        "a0": make_adapter(base, seed=1),
        "a1": make_adapter(base, seed=2, rank=3),
        "a2": make_adapter(base, seed=3, targets=ALL_SEVEN),
        "a3": make_adapter(base, seed=4, invocation=None),
        "a4": make_adapter(base, seed=5, rank=40, targets=["q_proj", "v_proj"]),
    }


@pytest.fixture
def engine_with(tiny_engine, folders):
    def make(**config) -> Engine:
        engine = tiny_engine(**config)
        for name, folder in folders.items():
            engine.add_adapter(name, folder)
        return engine

    return make


@pytest.mark.parametrize("max_adapters", [1, 2])
def test_answers_do_not_depend_on_how_many_fit(engine_with, max_adapters):
    prompts = [prompt_with(seed, 1) for seed in range(12)]
    adapters = [*NAMES, None, *reversed(NAMES), None]
    want = [engine_with().generate(p, GREEDY, a)[0].token_ids for p, a in zip(prompts, adapters, strict=True)]
    engine = engine_with(max_adapters=max_adapters)
    got = engine.generate(prompts, GREEDY, adapters)
    assert [output.token_ids for output in got] == want
    slots = engine.scheduler.slots
    assert (slots.num_resident, slots.num_pinned) == (max_adapters, 0)
    assert slots.num_evictions == slots.num_loads - max_adapters >= 5 - max_adapters


def test_a_resident_adapter_is_not_loaded_again(engine_with):
    engine = engine_with(max_adapters=2)
    for _ in range(3):
        for name in ("a0", "a1"):
            engine.score(prompt_with(1, 1), ["x", "yy"], adapter=name)
    assert engine.scheduler.slots.num_loads == 2


def test_preempted_and_abandoned_requests_give_their_slots_back(engine_with):
    engine = engine_with(max_adapters=2, cache_blocks=6)
    prompts = [prompt_with(seed, 1, 20) for seed in range(6)]
    longer = SamplingParams(max_tokens=40, ignore_eos=True)
    want = [engine_with().generate(p, longer, a)[0].token_ids for p, a in zip(prompts, [*NAMES, "a0"], strict=True)]
    got = engine.generate(prompts, longer, [*NAMES, "a0"])
    assert [output.token_ids for output in got] == want
    assert engine.stats().preemptions > 0
    stream = engine.stream(prompts[0], longer, adapter="a1")
    next(stream)
    assert engine.scheduler.slots.num_pinned == 1
    stream.close()
    assert engine.scheduler.slots.num_pinned == 0


def test_base_requests_pass_one_that_waits_for_a_slot_and_adapted_ones_do_not(engine_with):
    engine = engine_with(max_adapters=1)
    held = engine.stream(prompt_with(1, 1), GREEDY, adapter="a0")
    next(held)
    order = []
    scheduler, end = engine.scheduler, engine.scheduler.end
    scheduler.end = lambda sequence, reason: (order.append(sequence.adapter_name), end(sequence, reason))
    engine.generate([prompt_with(2, 1), prompt_with(3, 1), prompt_with(4, 1)], GREEDY, ["a1", "a0", None])
    assert order.index(None) < order.index("a1")
    assert order[-1] == "a0" and order.count("a0") == 2  # the stream's, then the one that waited behind a1
    held.close()


def test_max_adapters_is_checked():
    from alorakit import EngineConfig

    for value in (0, -1, True, "2", None):
        with pytest.raises(ConfigError, match="max_adapters"):
            EngineConfig(max_adapters=value)
