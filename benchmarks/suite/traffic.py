"""Mixed traffic: requests arrive by chance, half of them answers of the base model, half checks by many adapters."""

import random
import time
from collections.abc import Callable, Sequence

from alorakit import SamplingParams
from benchmarks.suite.contest import Answer, Contest
from benchmarks.suite.records import Point, Results
from benchmarks.suite.setup import ALORA, BASE, LORA, Suite, own
from benchmarks.workloads import random_ids

Arrival = tuple[float, list[int], SamplingParams, str | None]  # when, prompt, how to decode, adapter
DOCUMENTS, LENGTH, ANSWER = 4, 512, 16
POPULARITY: dict[str, Callable[[random.Random, int, int], int]] = {
    "uniform": lambda rng, _, num: rng.randrange(num),
    # Zipf's law: the i-th adapter is asked 1/i times as often as the first.
    "zipf": lambda rng, _, num: rng.choices(range(num), [1 / (rank + 1) for rank in range(num)])[0],
    "all distinct": lambda _, index, num: index % num,
}


def mixed(suite: Suite, results: Results) -> None:
    """For each popularity of adapters; latency is a request's, from its arrival to its last token."""
    rate = _rate(suite)
    for popularity in POPULARITY:
        point: Point = {"popularity": popularity, "per_s": round(rate, 1), "requests": suite.sizes.requests}
        asks = {kind: _ask_as(suite, kind, popularity, rate) for kind in (BASE, ALORA, LORA)}
        warmup = int(suite.device.type == "cuda")  # there the first run of its shapes is captured
        Contest("traffic", point, asks).run(results, suite.sizes.long_rounds, warmup)


def _rate(suite: Suite) -> float:
    """Arrivals a second: about half of what the engine can answer of the base model's requests."""
    documents = _documents("rate", 0)
    for document in documents:
        suite.read(document)
    requests = [document + own("rate", index) for index, document in enumerate([*documents, *documents])]
    start = time.perf_counter()
    suite.engine.generate(requests, suite.params(ANSWER))
    return len(requests) / (time.perf_counter() - start) / 2


def _documents(*seed: object) -> list[list[int]]:
    return [random_ids(LENGTH, "traffic", *seed, index) for index in range(DOCUMENTS)]


def _ask_as(suite: Suite, kind: str, popularity: str, rate: float) -> Callable[[int], Answer]:
    def ask(turn: int) -> Answer:
        rng = random.Random(f"{popularity} {turn}")
        documents = _documents(kind, popularity, turn)
        arrivals: list[Arrival] = []
        at = 0.0
        for index in range(suite.sizes.requests):
            at += rng.expovariate(rate)
            adapter = POPULARITY[popularity](rng, index, suite.sizes.adapters)
            prompt = rng.choice(documents) + own(kind, popularity, turn, index)
            # Whose answer is wanted alternates: the base model's, of more tokens, and a check's.
            check = index % 2 == 1
            params = suite.params(suite.sizes.new if check else ANSWER)
            arrivals.append((at, prompt, params, suite.name(kind, adapter) if check else None))
        return _serve(suite, arrivals)

    return ask


def _serve(suite: Suite, arrivals: Sequence[Arrival]) -> Answer:
    """Step the engine while requests arrive; the mean latency and time to first token."""
    engine, waiting, latencies, firsts = suite.engine, list(reversed(arrivals)), [], []
    before, start = engine.stats(), time.perf_counter()
    while waiting or engine.has_unfinished:
        now = time.perf_counter() - start
        while waiting and waiting[-1][0] <= now:
            _, prompt, params, adapter = waiting.pop()
            engine.add_request(prompt, params, adapter)
        if not engine.has_unfinished:
            time.sleep(max(0.0, waiting[-1][0] - (time.perf_counter() - start)))
            continue
        for output in engine.step():
            latencies.append(output.timing.total_s)
            firsts.append(output.timing.ttft_s)
    after = engine.stats()
    return Answer(
        [],
        sum(latencies) / len(latencies),
        sum(firsts) / len(firsts),
        after.tokens_computed - before.tokens_computed,
        after.tokens_cached - before.tokens_cached,
    )
