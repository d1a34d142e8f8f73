"""What the engine counts."""

from dataclasses import dataclass


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
