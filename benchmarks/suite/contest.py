"""A contest: whoever takes part answers in turn, round by round, after it was seen that peers answer alike."""

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from alorakit import Engine, SamplingParams
from benchmarks.suite.records import Point, Record, Results

PROBE = -1  # the round in which answers are compared, and nothing is timed
ALIKE = 0.75  # of the tokens, from the start: half formats may part at a near tie


@dataclass(frozen=True)
class Answer:
    """What one question came to.

    Attributes:
        ids: Decoded tokens.
        seconds: End to end.
        first: Seconds to the first token; None where that is not known.
        computed: Tokens that entered the model; None likewise.
        cached: Prompt tokens that the cache held; None likewise.
    """

    ids: list[int]
    seconds: float
    first: float | None = None
    computed: int | None = None
    cached: int | None = None


Ask = Callable[[int], Answer]


@dataclass(frozen=True)
class Contest:
    """Contestants at one point of a workload.

    Attributes:
        workload: Its name.
        point: What varies.
        asks: Name -> what it does in a round; rounds get different questions, contestants the same one.
        like: Peer -> contestant of ours that must answer alike.
        limits: Contestant -> seconds that its work needs at least.
    """

    workload: str
    point: Point
    asks: Mapping[str, Ask]
    like: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, float] = field(default_factory=dict)

    def run(self, results: Results, rounds: int, warmup: int = 1) -> None:
        """Compare answers, warm up, take turns, and keep a record of each contestant."""
        differing = self._differing()
        timed = {name: ask for name, ask in self.asks.items() if name not in differing}
        answers: dict[str, list[Answer]] = {name: [] for name in timed}
        gc.collect()
        for turn in range(warmup + rounds):
            for name, ask in timed.items():
                answer = ask(turn)
                if turn >= warmup:
                    answers[name].append(answer)
        for name in self.asks:
            record = self._record(name, answers.get(name, []), differing.get(name, ""))
            results.records.append(record)
            print(_line(record), flush=True)

    def _differing(self) -> dict[str, str]:
        """Peers that answer otherwise than ours, and how."""
        if not self.like:
            return {}
        found = {name: self.asks[name](PROBE).ids for name in {*self.like, *self.like.values()}}
        differing = {}
        for peer, ours in self.like.items():
            same = common(found[peer], found[ours])
            if same < max(1, round(ALIKE * len(found[ours]))):
                differing[peer] = f"answers otherwise: {same} of {len(found[ours])} tokens are those of {ours}"
        return differing

    def _record(self, name: str, answers: list[Answer], note: str) -> Record:
        return Record(
            self.workload,
            name,
            self.point,
            [answer.seconds for answer in answers],
            [answer.first for answer in answers if answer.first is not None],
            _mean([answer.computed for answer in answers]),
            _mean([answer.cached for answer in answers]),
            self.limits.get(name),
            note,
        )


def common(a: list[int], b: list[int]) -> int:
    """Tokens from the start on in which two answers are equal."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def ask_engine(engine: Engine, prompt: list[int], params: SamplingParams, adapter: str | None) -> Answer:
    """One request to the engine."""
    before = engine.stats().tokens_computed
    start = time.perf_counter()
    (output,) = engine.generate(prompt, params, adapter)
    seconds = time.perf_counter() - start
    computed = engine.stats().tokens_computed - before
    return Answer(output.token_ids, seconds, output.timing.ttft_s, computed, output.usage.cached_tokens)


def ask_engine_together(
    engine: Engine, prompts: list[list[int]], params: SamplingParams, adapters: list[str | None]
) -> Answer:
    """Several requests at once; the first token is the last one's."""
    before = engine.stats().tokens_computed
    start = time.perf_counter()
    outputs = engine.generate(prompts, params, adapters)
    seconds = time.perf_counter() - start
    return Answer(
        [token for output in outputs for token in output.token_ids],
        seconds,
        max(output.timing.ttft_s for output in outputs),
        engine.stats().tokens_computed - before,
        sum(output.usage.cached_tokens for output in outputs),
    )


def _mean(values: list[int | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(sum(known) / len(known), 1) if known else None


def _line(record: Record) -> str:
    point = ", ".join(f"{name} {value}" for name, value in record.point.items())
    head = f"{record.workload:10} {point:28} {record.contestant:34}"
    if not record.seconds:
        return f"{head} not timed: {record.note}"
    computed = f"{record.computed:>9,.0f} tokens" if record.computed is not None else ""
    return f"{head} {1e3 * record.median:>10.1f} ms ±{record.spread:>4.0%} {computed}"
