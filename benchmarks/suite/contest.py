"""A contest: whoever takes part answers in turn, round by round, after it was seen that peers answer alike."""

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from alorakit import Engine, SamplingParams
from benchmarks.harness import take_turns
from benchmarks.suite.records import Point, Record, Results

# Rounds in which answers are compared, and nothing is timed: the first; if a peer answers otherwise, the others too.
PROBES = (-1, -2, -3)
# Nats by which the token of ours is likelier than a peer's where they part: half formats round that much apart.
NEAR_TIE = 0.25
TOP = 20


@dataclass(frozen=True)
class Answer:
    """What one question came to.

    Attributes:
        ids: Decoded tokens.
        seconds: End to end.
        first: Seconds to the first token; None where that is not known.
        computed: Tokens that entered the model; None likewise.
        cached: Prompt tokens that the cache held; None likewise.
        logprobs: Of the likeliest tokens at each place; only of ours, in the round in which answers are compared.
    """

    ids: list[int]
    seconds: float
    first: float | None = None
    computed: int | None = None
    cached: int | None = None
    logprobs: list[dict[int, float]] | None = None


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
        loose: Peers of another arithmetic, which are timed, and their answers told, though they answer otherwise.
    """

    workload: str
    point: Point
    asks: Mapping[str, Ask]
    like: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, float] = field(default_factory=dict)
    loose: frozenset[str] = frozenset()

    def run(self, results: Results, rounds: int, warmup: int = 1, fewer: Mapping[str, int] | None = None) -> None:
        """Compare answers, warm up, take turns, and keep a record of each contestant; arguments as of take_turns."""
        notes, differing = self._compared()
        timed = {name: ask for name, ask in self.asks.items() if name not in differing}
        gc.collect()
        answers = take_turns(timed, rounds, warmup, fewer)
        for name in self.asks:
            record = self._record(name, answers.get(name, []), notes.get(name, ""))
            results.records.append(record)
            print(_line(record), flush=True)

    def _compared(self) -> tuple[dict[str, str], set[str]]:
        """What is to be said of peers' answers, and who answers otherwise than ours."""
        notes, differing = {}, set()
        own: dict[tuple[str, int], Answer] = {}
        for peer, ours in self.like.items():
            found: list[tuple[bool, str]] = []
            for probe in PROBES:
                if (ours, probe) not in own:
                    own[ours, probe] = self.asks[ours](probe)
                found.append(_verdict(self.asks[peer](probe), own[ours, probe]))
                if found[0][0]:
                    break
            if alike := sum(good for good, _ in found) * 2 > len(found):
                notes[peer] = "; ".join(filter(None, (text for _, text in found)))
            else:
                notes[peer] = f"answers otherwise than {ours}: " + "; ".join(text or "alike" for _, text in found)
            if not alike and peer not in self.loose:
                differing.add(peer)
        return notes, differing

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


def _verdict(theirs: Answer, ours: Answer) -> tuple[bool, str]:
    """Whether a peer's answer counts as ours, and what is to be said of it: nothing if all its tokens are equal."""
    same, total = common(theirs.ids, ours.ids), len(ours.ids)
    if same == total:
        return True, ""
    tie = near_tie(ours, theirs.ids, same)
    return tie, f"{same} of {total} tokens are equal, then they part{' at a near tie' if tie else ''}"


def common(a: list[int], b: list[int]) -> int:
    """Tokens from the start on in which two answers are equal."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def near_tie(ours: Answer, theirs: list[int], place: int) -> bool:
    """Whether the token that a peer chose where answers part is nearly as likely as ours."""
    if ours.logprobs is None or place >= min(len(ours.ids), len(theirs)):
        return False
    likely = ours.logprobs[place]
    return likely[ours.ids[place]] - likely.get(theirs[place], -float("inf")) <= NEAR_TIE


def ask_engine(
    engine: Engine, prompt: list[int], params: SamplingParams, adapter: str | None, probe: bool = False
) -> Answer:
    """One request to the engine; ``probe``: with log-probabilities, to compare answers by."""
    return ask_engine_together(engine, [prompt], replace(params, logprobs=TOP) if probe else params, [adapter])


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
        [each for output in outputs for each in output.logprobs or ()] or None,
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
