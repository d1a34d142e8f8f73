"""The engine's statistics for Prometheus, read when they are scraped; nothing is counted twice."""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Protocol, TypeVar

from alorakit.engine.errors import ConfigError
from alorakit.engine.stats import EngineStats

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

Family = TypeVar("Family", "CounterMetricFamily", "GaugeMetricFamily")


class HasStats(Protocol):
    """What has statistics: an engine."""

    def stats(self) -> EngineStats:
        """What it has counted."""
        ...


class EngineCollector:
    """A custom collector (``prometheus_client.registry.Collector``) over whatever returns :class:`EngineStats`."""

    def __init__(self, stats: Callable[[], EngineStats]) -> None:
        """``stats`` is called at every scrape, from the thread that scrapes."""
        self._stats = stats

    def describe(self) -> Iterator["CounterMetricFamily | GaugeMetricFamily"]:
        """The metrics' names: without them a registry would not notice a second engine."""
        return self.collect()

    def collect(self) -> Iterator["CounterMetricFamily | GaugeMetricFamily"]:
        """Every metric at its present value; totals over a label are left to PromQL's ``sum``."""
        from prometheus_client.core import CounterMetricFamily as Counter
        from prometheus_client.core import GaugeMetricFamily as Gauge

        s = self._stats()
        stages = Counter("alorakit_step_seconds_total", "Time in each stage of a step.", labels=["stage"])
        hits = Counter("alorakit_hit_tokens_total", "Prompt tokens found cached, by their writer.", labels=["kind"])
        ended = Counter("alorakit_requests_ended_total", "Sequences that ended.", labels=["reason"])
        unended = Gauge("alorakit_sequences", "Sequences that have not ended.", labels=["state"])
        blocks = Gauge("alorakit_blocks", "KV blocks.", labels=["state"])
        yield Counter("alorakit_steps_total", "Forward passes.", s.steps)
        yield _filled(stages, s.step_seconds)
        yield Counter("alorakit_structured_seconds_total", "Structured output, in stage sample.", s.structured_seconds)
        yield Counter("alorakit_tokens_computed_total", "Rows that entered the model.", s.tokens_computed)
        yield Counter("alorakit_tokens_decoded_total", "Tokens decoded.", s.tokens_decoded)
        yield Gauge("alorakit_decode_tokens_per_second", "Speed of the last steps that decoded.", s.tokens_per_second)
        yield _filled(hits, s.hit_tokens)
        yield _filled(ended, s.requests_ended)
        yield Counter("alorakit_preemptions_total", "Sequences put back so that others could run.", s.preemptions)
        yield _filled(unended, {"running": s.running, "waiting": s.waiting})
        yield _filled(blocks, {"free": s.blocks_free, "cached": s.blocks_cached, "live": s.blocks_live})
        yield Gauge("alorakit_adapters", "Registered adapters.", s.adapters)
        yield Gauge("alorakit_adapters_resident", "Adapters whose weights are in a slot.", s.adapters_resident)
        yield Gauge("alorakit_adapters_pinned", "Adapters that running sequences use.", s.adapters_pinned)
        yield Counter("alorakit_adapter_loads_total", "Adapters brought into a slot.", s.adapter_loads)
        yield Counter("alorakit_adapter_evictions_total", "Adapters put out of a slot.", s.adapter_evictions)
        yield Gauge("alorakit_cuda_graphs", "CUDA graphs captured.", s.graphs)
        yield Gauge("alorakit_cuda_graph_bytes", "Device memory of CUDA graphs.", s.graph_bytes)
        yield Counter("alorakit_splice_fallbacks_total", "Chat messages not spliced by their ids.", s.splice_fallbacks)
        yield Gauge("alorakit_compile_seconds", "Time it took to compile the decoder.", s.compile_seconds)


def register_metrics(engine: HasStats, registry: "CollectorRegistry | None" = None) -> EngineCollector:
    """Add an engine's metrics to a Prometheus registry.

    Args:
        engine: Has ``stats()``; it is kept alive until the collector is unregistered.
        registry: None: prometheus_client's default one, which ``start_http_server`` serves.

    Returns:
        The collector, for ``registry.unregister``.

    Raises:
        ConfigError: prometheus_client is not installed, or the registry has an engine's metrics already.
    """
    try:
        from prometheus_client import REGISTRY
    except ImportError as exc:
        raise ConfigError('prometheus_client is not installed; run: pip install "alorakit[metrics]"') from exc
    collector = EngineCollector(engine.stats)
    try:
        (REGISTRY if registry is None else registry).register(collector)
    except ValueError as exc:
        raise ConfigError(
            "the registry holds an engine's metrics already; unregister that collector, or pass a registry=… of its own"
        ) from exc
    return collector


def _filled(metric: Family, values: Mapping[str, float]) -> Family:
    """A metric with one label, a sample for each of its values."""
    for label, value in values.items():
        metric.add_metric([label], value)
    return metric
