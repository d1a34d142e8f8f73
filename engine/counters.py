"""What the engine counts as it goes; read through ``Engine.stats``."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field

from alorakit.engine.block_tree import Match
from alorakit.engine.sequence import Sequence
from alorakit.engine.sharing import Tail


@dataclass
class Counters:
    """Totals since the engine was made.

    Attributes:
        steps: Forward passes.
        rows: Rows that entered the model.
        decoded: Tokens decoded.
        preemptions: Sequences put back because the cache was full.
        ended: Sequences by finish reason.
        hits: Prompt tokens found in the cache, by whose request computed them: ``"base"``, ``"own"`` (the same
            adapter) or ``"other"`` (the base part of another adapter's request).
        seconds: Time spent in each stage of a step.
    """

    steps: int = 0
    rows: int = 0
    decoded: int = 0
    preemptions: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    hits: Counter[str] = field(default_factory=Counter)
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    def count_hits(self, sequence: Sequence, match: Match, tail: Tail | None) -> None:
        """Count the tokens that a sequence need not compute."""
        parts = [(node.writer, len(node.tokens)) for node in match.nodes]
        if tail is not None:
            parts.append((tail.owner.writer, tail.rows))
        elif match.partial is not None:
            parts.append((match.partial.writer, match.partial_rows))
        for writer, rows in parts:
            kind = "base" if writer is None else "own" if writer == sequence.writer else "other"
            self.hits[kind] += rows

    def count_end(self, sequence: Sequence) -> None:
        """Count a sequence that ended."""
        assert sequence.finish_reason is not None
        self.ended[sequence.finish_reason] += 1
