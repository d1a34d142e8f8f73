"""What the engine counts."""

from dataclasses import dataclass

from alorakit.engine.counters import Counters
from alorakit.engine.registry import AdapterRegistry
from alorakit.engine.scheduler import Scheduler
from alorakit.engine.tokenizer import Tokenizer


@dataclass(frozen=True)
class EngineStats:
    """Counters since the engine was made, and what its cache holds now.

    Attributes:
        tokens_computed: Rows that entered the model.
        tokens_cached: Prompt tokens whose KV was found in the cache.
        requests: Requests answered (a score counts as one).
        preemptions: Sequences that were put back because the cache was full.
        running: Sequences that run now.
        waiting: Sequences that wait now.
        blocks_total: KV blocks.
        blocks_free: Blocks that hold nothing.
        blocks_cached: Blocks that the prefix cache holds.
        adapters: Registered adapters.
        splice_fallbacks: Chat messages that could not be spliced in by their own ids.
    """

    tokens_computed: int
    tokens_cached: int
    requests: int
    preemptions: int
    running: int
    waiting: int
    blocks_total: int
    blocks_free: int
    blocks_cached: int
    adapters: int
    splice_fallbacks: int

    @classmethod
    def collect(
        cls, counters: Counters, scheduler: Scheduler, registry: AdapterRegistry, tokenizer: Tokenizer
    ) -> "EngineStats":
        """Read them off the engine's parts."""
        tree = scheduler.blocks.tree
        return cls(
            tokens_computed=counters.rows,
            tokens_cached=counters.hits.total(),
            requests=counters.ended.total(),
            preemptions=counters.preemptions,
            running=len(scheduler.running),
            waiting=len(scheduler.waiting),
            blocks_total=tree.pool.num_blocks,
            blocks_free=tree.pool.num_free,
            blocks_cached=tree.num_cached,
            adapters=len(registry.infos),
            splice_fallbacks=tokenizer.splice_fallbacks,
        )
