"""What the engine says it did is what it did."""

import dataclasses
from itertools import count
from types import SimpleNamespace

import pytest

from alorakit.engine.counters import DecodeRate
from alorakit.engine.request import SamplingParams
from alorakit.engine.stats import EngineStats

from .conftest import INVOCATION
from .test_parity import prompt_with

CONTEXT = prompt_with(4, 0, 48)
ASKED = [*CONTEXT, *INVOCATION, 7]


def greedy(num: int, **kwargs) -> SamplingParams:
    return SamplingParams(max_tokens=num, ignore_eos=True, **kwargs)


@pytest.fixture
def engine(tiny_engine, tiny_models, make_adapter):
    engine = tiny_engine()
    for seed, name in enumerate(("one", "two"), start=1):
        engine.add_adapter(name, make_adapter(tiny_models["llama"], seed=seed))
    return engine


def test_a_new_engine_has_done_nothing(tiny_engine):
    stats = tiny_engine(cache_blocks=20).stats()
    assert (stats.blocks_total, stats.blocks_free, stats.blocks_cached, stats.blocks_live) == (20, 20, 0, 0)
    assert stats.hit_tokens == {"base": 0, "own": 0, "other": 0}
    assert stats.requests_ended == {"stop": 0, "length": 0, "abort": 0, "error": 0}
    assert set(stats.step_seconds) == {"schedule", "build", "model", "sample", "finish"}
    assert (stats.steps, stats.overhead, stats.tokens_per_second, stats.adapters) == (0, 0.0, 0.0, 0)


def test_every_field_says_what_it_is():
    for field in dataclasses.fields(EngineStats):
        assert f"\n        {field.name}: " in EngineStats.__doc__


def test_hits_are_counted_by_who_computed_them(engine):
    engine.generate(ASKED, greedy(2), adapter="one")
    assert engine.stats().hit_tokens == {"base": 0, "own": 0, "other": 0}
    engine.generate(ASKED, greedy(2), adapter="two")
    assert engine.stats().hit_tokens == {"base": 0, "own": 0, "other": 48}
    engine.generate(ASKED, greedy(2), adapter="one")
    assert engine.stats().hit_tokens == {"base": 0, "own": 51, "other": 48}
    other = prompt_with(5, 0, 32)
    engine.generate([*other, 9], greedy(1))
    engine.generate([*other, *INVOCATION], greedy(1), adapter="two")
    stats = engine.stats()
    assert stats.hit_tokens == {"base": 32, "own": 51, "other": 48}
    assert stats.tokens_cached == 32 + 51 + 48


def test_steps_tokens_and_requests_are_counted(engine):
    engine.generate([CONTEXT, prompt_with(6, 0, 20)], greedy(3))
    stats = engine.stats()
    assert (stats.steps, stats.tokens_decoded, stats.tokens_computed) == (3, 6, 48 + 20 + 4)
    engine.score(prompt_with(7, 0, 20), ["a", "b"])
    assert engine.stats().tokens_decoded == 6
    assert engine.stats().requests == 3


def test_requests_end_for_a_reason(engine, monkeypatch):
    (free,) = engine.generate(CONTEXT, greedy(4))
    engine.generate(CONTEXT, greedy(4, stop_token_ids=[free.token_ids[1]]))
    engine.abort(engine.add_request(CONTEXT, greedy(4)))
    assert engine.stats().requests_ended == {"stop": 1, "length": 1, "abort": 1, "error": 0}
    monkeypatch.setattr(engine._runner, "run", lambda batch: 1 / 0)
    engine.add_request(CONTEXT, greedy(4))
    while engine.has_unfinished:
        engine.step()
    assert engine.stats().requests_ended == {"stop": 1, "length": 1, "abort": 1, "error": 1}
    assert engine.stats().requests == 4


def test_blocks_queue_and_slots_while_running(tiny_engine, tiny_models, make_adapter):
    engine = tiny_engine(cache_blocks=20, max_num_seqs=1)
    engine.add_adapter("one", make_adapter(tiny_models["llama"], seed=1))
    engine.add_request(ASKED, greedy(4), adapter="one")
    engine.add_request(prompt_with(8, 0, 20), greedy(4))
    engine.step()
    stats = engine.stats()
    assert (stats.running, stats.waiting) == (1, 1)
    assert (stats.blocks_free, stats.blocks_cached, stats.blocks_live) == (16, 3, 1)
    assert (stats.adapters, stats.adapters_resident, stats.adapters_pinned) == (1, 1, 1)
    assert (stats.adapter_loads, stats.adapter_evictions) == (1, 0)
    while engine.has_unfinished:
        engine.step()
    stats = engine.stats()
    assert (stats.running, stats.waiting, stats.adapters_pinned, stats.blocks_live) == (0, 0, 0, 0)
    assert stats.blocks_free + stats.blocks_cached == stats.blocks_total == 20


def test_preemptions_are_counted(tiny_engine):
    engine = tiny_engine(cache_blocks=8)
    engine.generate([prompt_with(seed, 0, 50) for seed in (1, 2)], greedy(40))
    assert engine.stats().preemptions > 0


def test_step_time_by_stage_and_decoding_speed(engine, monkeypatch):
    """On a clock that moves one second at each look."""
    clock = count()
    monkeypatch.setattr("alorakit.engine.loop.time", SimpleNamespace(perf_counter=lambda: float(next(clock))))
    engine.generate(CONTEXT, greedy(4))
    stats = engine.stats()
    # The first token's time is looked up once, in "finish".
    assert stats.step_seconds == {"schedule": 4.0, "build": 4.0, "model": 4.0, "sample": 4.0, "finish": 5.0}
    assert stats.overhead == pytest.approx(17 / 21)
    assert stats.tokens_per_second == pytest.approx(4 / (12 + 3 * 11))
    engine.score(prompt_with(7, 0, 20), ["a", "b"])
    assert engine.stats().tokens_per_second == stats.tokens_per_second


def test_structured_seconds_are_the_samplers(engine):
    engine._sampler.structured_seconds += 1.5
    assert engine.stats().structured_seconds == 1.5


def test_the_decoding_speed_is_that_of_the_last_steps_that_decoded():
    rate = DecodeRate(num_steps=2)
    assert rate.tokens_per_second == 0.0
    rate.add(100, 1.0)
    rate.add(3, 1.0)
    rate.add(0, 100.0)
    rate.add(5, 3.0)
    assert rate.tokens_per_second == 2.0
