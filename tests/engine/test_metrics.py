"""Prometheus sees what Engine.stats says."""

import dataclasses
import sys
from itertools import count

import pytest
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from alorakit.engine.counters import END_REASONS, HIT_KINDS, STAGES
from alorakit.engine.errors import ConfigError
from alorakit.engine.metrics import EngineCollector, register_metrics
from alorakit.engine.request import SamplingParams
from alorakit.engine.stats import EngineStats

from .conftest import INVOCATION
from .test_parity import prompt_with

MAPPINGS = {"hit_tokens": HIT_KINDS, "requests_ended": END_REASONS, "step_seconds": STAGES}
# Each the sum of a metric over its label.
SUMS = {"tokens_cached": "alorakit_hit_tokens_total", "requests": "alorakit_requests_ended_total"}
SUMS |= {"blocks_total": "alorakit_blocks"}


def samples(collector: EngineCollector) -> list[tuple[str, float]]:
    return [(sample.name, sample.value) for metric in collector.collect() for sample in metric.samples]


def test_every_field_of_the_stats_is_there():
    numbers = count(1000)
    values = {
        field.name: {key: next(numbers) for key in MAPPINGS[field.name]} if field.name in MAPPINGS else next(numbers)
        for field in dataclasses.fields(EngineStats)
    }
    values["tokens_cached"] = sum(values["hit_tokens"].values())
    values["requests"] = sum(values["requests_ended"].values())
    values["blocks_total"] = values["blocks_free"] + values["blocks_cached"] + values["blocks_live"]
    found = samples(EngineCollector(lambda: EngineStats(**values)))
    for name, value in values.items():
        for number in value.values() if isinstance(value, dict) else [value]:
            if name in SUMS:
                assert sum(v for n, v in found if n == SUMS[name]) == number
            else:
                assert [v for _, v in found].count(number) == 1, name
    assert len(found) == sum(len(v) if isinstance(v, dict) else 1 for v in values.values()) - len(SUMS)


def test_values_move_with_work(tiny_engine, tiny_models, make_adapter):
    engine, registry = tiny_engine(), CollectorRegistry()
    register_metrics(engine, registry)

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"alorakit_{name}", labels)

    assert value("tokens_decoded_total") == value("hit_tokens_total", kind="base") == value("adapters") == 0
    engine.add_adapter("one", make_adapter(tiny_models["llama"]))
    context = prompt_with(1, 0, 32)
    engine.generate([*context, 9], SamplingParams(max_tokens=3, ignore_eos=True))
    engine.generate([*context, *INVOCATION], SamplingParams(max_tokens=2, ignore_eos=True), adapter="one")
    assert value("tokens_decoded_total") == 5
    assert value("tokens_computed_total") == 33 + 2 + 3 + 1
    assert value("hit_tokens_total", kind="base") == 32
    assert value("requests_ended_total", reason="length") == 2
    assert value("steps_total") == 5
    assert value("step_seconds_total", stage="model") > 0
    assert value("decode_tokens_per_second") > 0
    assert value("adapters") == 1
    assert value("blocks", state="cached") == engine.stats().blocks_cached > 0
    assert value("sequences", state="running") == 0


def test_the_exposition_parses(tiny_engine):
    registry = CollectorRegistry()
    register_metrics(tiny_engine(), registry)
    text = generate_latest(registry).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert {s.labels["stage"] for s in families["alorakit_step_seconds"].samples} == set(STAGES)
    assert {s.labels["state"] for s in families["alorakit_blocks"].samples} == {"free", "cached", "live"}
    assert families["alorakit_tokens_computed"].type == "counter"
    assert all(family.documentation for family in families.values())


def test_the_default_registry_and_unregistering(tiny_engine):
    engine = tiny_engine()
    collector = register_metrics(engine)
    try:
        assert REGISTRY.get_sample_value("alorakit_steps_total") == 0
    finally:
        REGISTRY.unregister(collector)
    assert REGISTRY.get_sample_value("alorakit_steps_total") is None


def test_two_engines_in_one_registry_are_refused(tiny_engine):
    registry = CollectorRegistry()
    register_metrics(tiny_engine(), registry)
    with pytest.raises(ConfigError, match="unregister that collector"):
        register_metrics(tiny_engine(), registry)


def test_without_the_package_the_error_says_what_to_install(tiny_engine, monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(ConfigError, match=r'pip install "alorakit\[metrics\]"'):
        register_metrics(tiny_engine())
