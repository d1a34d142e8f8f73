"""What the engine counts, as one snapshot."""

from collections.abc import Mapping
from dataclasses import dataclass

from alorakit.engine.captured_step import GraphPool
from alorakit.engine.counters import Counters
from alorakit.engine.registry import AdapterRegistry
from alorakit.engine.sampler import Sampler
from alorakit.engine.scheduler import Scheduler
from alorakit.engine.tokenizer import Tokenizer


def share_outside_model(step_seconds: Mapping[str, float]) -> float:
    """Share of ``step_seconds``, from 0 to 1, that is not the forward pass; 0.0 if there was no step."""
    total = sum(step_seconds.values())
    return 1.0 - step_seconds["model"] / total if total else 0.0


@dataclass(frozen=True)
class EngineStats:
    """Counters since the engine was made, and what it holds now. Only whole totals: subtract two for an interval.

    Attributes:
        steps: Forward passes.
        tokens_computed: Rows that entered the model, those of drafts and of scored candidates included.
        tokens_decoded: Tokens chosen by the sampler and kept.
        tokens_per_second: Tokens decoded per second of step time, over the last 100 steps that decoded any.
        tokens_cached: Prompt tokens whose KV was found in the cache.
        hit_tokens: The same by whose request had computed them: ``"base"`` (the base model's), ``"own"`` (the same
            adapter's) or ``"other"`` (another adapter's, the part before its activation).
        requests: Sequences that ended (a score counts as one).
        requests_ended: The same by reason: ``"stop"``, ``"length"``, ``"abort"`` or ``"error"``.
        preemptions: Sequences that were put back because the cache was full, or for a more urgent one.
        running: Sequences that run now.
        waiting: Sequences that wait now.
        blocks_total: KV blocks; the sum of the next three.
        blocks_free: Blocks that hold nothing.
        blocks_cached: Blocks that the prefix cache holds, whether running sequences read them or not.
        blocks_live: Blocks that a single running sequence fills.
        adapters: Registered adapters.
        adapters_resident: Adapters whose weights are in a slot of the device now.
        adapters_pinned: Those of them that running sequences use.
        adapter_loads: Times an adapter's weights were brought into a slot.
        adapter_evictions: Times an adapter's weights were put out of one.
        step_seconds: Seconds by stage of a step: ``"schedule"``, ``"build"``, ``"model"``, ``"sample"``, ``"finish"``.
            On a GPU ``"model"`` is what launching takes, and ``"sample"`` has the wait for the device.
        structured_seconds: Seconds spent on structured output; part of ``step_seconds["sample"]``.
        graphs: CUDA graphs captured: one for each shape of a step of up to 64 rows that has occurred.
        graph_bytes: Device memory that they took.
        splice_fallbacks: Chat messages that could not be spliced in by their own ids.
        compile_seconds: Seconds it took to compile the decoder, or to load what had been compiled; 0.0 if it is not
            compiled.
    """

    steps: int
    tokens_computed: int
    tokens_decoded: int
    tokens_per_second: float
    tokens_cached: int
    hit_tokens: Mapping[str, int]
    requests: int
    requests_ended: Mapping[str, int]
    preemptions: int
    running: int
    waiting: int
    blocks_total: int
    blocks_free: int
    blocks_cached: int
    blocks_live: int
    adapters: int
    adapters_resident: int
    adapters_pinned: int
    adapter_loads: int
    adapter_evictions: int
    step_seconds: Mapping[str, float]
    structured_seconds: float
    graphs: int
    graph_bytes: int
    splice_fallbacks: int
    compile_seconds: float

    @property
    def overhead(self) -> float:
        """Share of step time outside the model, from 0 to 1; of no meaning on a GPU, see ``step_seconds``."""
        return share_outside_model(self.step_seconds)

    @classmethod
    def collect(
        cls,
        counters: Counters,
        scheduler: Scheduler,
        sampler: Sampler,
        registry: AdapterRegistry,
        tokenizer: Tokenizer,
        graphs: GraphPool,
    ) -> "EngineStats":
        """Read them off the engine's parts."""
        tree, slots = scheduler.blocks.tree, scheduler.slots
        return cls(
            steps=counters.steps,
            tokens_computed=counters.rows,
            tokens_decoded=counters.decoded,
            tokens_per_second=counters.rate.tokens_per_second,
            tokens_cached=counters.hits.total(),
            hit_tokens=dict(counters.hits),
            requests=counters.ended.total(),
            requests_ended=dict(counters.ended),
            preemptions=counters.preemptions,
            running=len(scheduler.running),
            waiting=len(scheduler.waiting),
            blocks_total=tree.pool.num_blocks,
            blocks_free=tree.pool.num_free,
            blocks_cached=tree.num_cached,
            blocks_live=sum(len(s.blocks) - len(s.nodes) for s in list(scheduler.running)),
            adapters=len(registry),
            adapters_resident=slots.num_resident,
            adapters_pinned=slots.num_pinned,
            adapter_loads=slots.num_loads,
            adapter_evictions=slots.num_evictions,
            step_seconds=dict(counters.seconds),
            structured_seconds=sampler.structured_seconds,
            graphs=graphs.num_graphs,
            graph_bytes=graphs.num_bytes,
            splice_fallbacks=tokenizer.splice_fallbacks,
            compile_seconds=counters.compile_seconds,
        )
