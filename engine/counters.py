"""What the engine counts as it goes; read through ``Engine.stats``."""

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from alorakit.engine.block_tree import Match
from alorakit.engine.sequence import Sequence
from alorakit.engine.sharing import Tail

# Every key is there from the start, at 0: what reads a counter meanwhile finds it of one size.
HIT_KINDS = ("base", "own", "other")
END_REASONS = ("stop", "length", "abort", "error")
STAGES = ("schedule", "build", "model", "sample", "finish")
RECENT_STEPS = 100


class DecodeRate:
    """How fast the last steps decoded; steps that decoded nothing, and the time between steps, do not count."""

    def __init__(self, num_steps: int = RECENT_STEPS) -> None:
        """Over the last ``num_steps`` steps."""
        self._steps: deque[tuple[int, float]] = deque(maxlen=num_steps)

    def add(self, tokens: int, seconds: float) -> None:
        """A step decoded ``tokens`` in ``seconds``."""
        if tokens:
            self._steps.append((tokens, seconds))

    @property
    def tokens_per_second(self) -> float:
        """Decoded tokens per second of step time; 0.0 before the first."""
        steps = list(self._steps)
        seconds = sum(seconds for _, seconds in steps)
        return sum(tokens for tokens, _ in steps) / seconds if seconds else 0.0


def _zeros(keys: Iterable[str]) -> Counter[str]:
    return Counter(dict.fromkeys(keys, 0))


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
        rate: Speed of decoding.
        compile_seconds: Time it took to compile the decoder, or to load what had been compiled.
    """

    steps: int = 0
    rows: int = 0
    decoded: int = 0
    preemptions: int = 0
    ended: Counter[str] = field(default_factory=lambda: _zeros(END_REASONS))
    hits: Counter[str] = field(default_factory=lambda: _zeros(HIT_KINDS))
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    rate: DecodeRate = field(default_factory=DecodeRate)
    compile_seconds: float = 0.0

    def count_hits(self, sequence: Sequence, match: Match, tail: Tail | None) -> None:
        """Count the tokens that a sequence need not compute."""
        parts = [(node.writer, len(node.tokens)) for node in match.nodes]
        copied = sequence.num_computed - sum(rows for _, rows in parts)
        source = match.partial if tail is None else tail.owner
        if copied and source is not None:
            parts.append((source.writer, copied))
        for writer, rows in parts:
            kind = "base" if writer is None else "own" if writer == sequence.writer else "other"
            self.hits[kind] += rows

    def count_end(self, sequence: Sequence) -> None:
        """Count a sequence that ended."""
        assert sequence.finish_reason is not None
        self.ended[sequence.finish_reason] += 1
