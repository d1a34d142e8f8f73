"""Checks: after contexts of several lengths, with several lengths of answer, and several of one context."""

import time

from benchmarks.roofline import check, seconds
from benchmarks.suite.contest import PROBES, Answer, Ask, Contest, ask_engine, ask_engine_together
from benchmarks.suite.peers import LLAMA_Q4, PEFT_LORA, Peers, ask_peft, question
from benchmarks.suite.records import Results
from benchmarks.suite.setup import ALORA, BASE, KINDS, LORA, QUESTION, SCORE, Suite, own, unseen
from benchmarks.workloads import INVOCATION, random_ids

OWN = QUESTION + len(INVOCATION)


def by_context(suite: Suite, results: Results, peers: Peers) -> None:
    """One check after contexts of every length."""
    for context in suite.sizes.contexts:
        who = peers if context in suite.sizes.peer_contexts else None
        fewer = suite.sizes.fewer(context, LORA, PEFT_LORA)
        one(suite, "check", context, suite.sizes.new, who).run(results, suite.sizes.rounds, fewer=fewer)


def by_output(suite: Suite, results: Results, peers: Peers) -> None:
    """One check that answers with more and more tokens."""
    for new in suite.sizes.outputs:
        contest = one(suite, "output", suite.sizes.context, new, peers)
        slow = dict.fromkeys((LORA, PEFT_LORA), suite.sizes.long_rounds)
        contest.run(results, suite.sizes.long_rounds + 1, fewer=slow)


def one(suite: Suite, workload: str, length: int, new: int, peers: Peers | None) -> Contest:
    """A check of a context that the base model has just read; the LoRA must read it again, at every context anew."""
    context = random_ids(length, "context", workload, length, new)
    suite.read(context)
    params = suite.params(new)

    def ours(kind: str) -> Ask:
        def ask(turn: int) -> Answer:
            before = unseen(context, turn) if kind == LORA else context
            prompt = before + question(kind, workload, length, new, turn)
            return ask_engine(suite.engine, prompt, params, suite.name(kind), probe=turn in PROBES)

        return ask

    asks: dict[str, Ask] = {kind: ours(kind) for kind in KINDS}
    like: dict[str, str] = {}
    if peers is not None:
        theirs, like = peers.asks(suite, workload, context, new)
        asks |= theirs
    point = {"context": length, "new": new}
    return Contest(workload, point, asks, like, _limits(suite, length, new), loose=frozenset({LLAMA_Q4}))


def _limits(suite: Suite, length: int, new: int) -> dict[str, float]:
    adapted = len(INVOCATION)
    least = {
        ALORA: check(suite.shape, length, OWN, new, suite.lora, adapted),
        BASE: check(suite.shape, length, OWN, new, suite.lora, 0),
        LORA: check(suite.shape, 0, length + OWN, new, suite.lora),
    }
    return {name: seconds(steps, suite.machine) for name, steps in least.items()}


def several(suite: Suite, results: Results) -> None:
    """``k`` checks of one document by ``k`` adapters, asked together."""
    length, new = suite.sizes.context, suite.sizes.new
    context = random_ids(length, "document")
    suite.read(context)
    params = suite.params(new)
    for num in suite.sizes.checks:

        def ours(kind: str, num: int = num) -> Ask:
            def ask(turn: int) -> Answer:
                before = unseen(context, 100 * num + turn) if kind == LORA else context
                prompts = [before + own("document", kind, num, turn, index) for index in range(num)]
                names = [suite.name(kind, index % suite.sizes.adapters) for index in range(num)]
                return ask_engine_together(suite.engine, prompts, params, names)

            return ask

        limits = {ALORA: seconds(check(suite.shape, length, OWN, new, suite.lora, len(INVOCATION), num), suite.machine)}
        contest = Contest(
            "several", {"checks": num, "context": length, "new": new}, {k: ours(k) for k in KINDS}, {}, limits
        )
        contest.run(results, suite.sizes.rounds, fewer=suite.sizes.fewer(num * length, LORA))


def scored(suite: Suite, results: Results, peers: Peers) -> None:
    """Two labels scored in one pass, which is how sessions check, against PEFT's LoRA that decodes one."""
    length = suite.sizes.context
    context = random_ids(length, "scored")
    suite.read(context)

    def score(turn: int) -> Answer:
        before, start = suite.engine.stats().tokens_computed, time.perf_counter()
        found = suite.engine.score(context + own("scored", turn), ["yes", "no"], adapter=suite.name(ALORA))
        seconds = time.perf_counter() - start
        return Answer([], seconds, None, suite.engine.stats().tokens_computed - before, found.usage.cached_tokens)

    def lora(turn: int) -> Answer:
        return ask_peft(peers.lora, context + own("scored", turn), suite.sizes.new)

    contest = Contest("score", {"context": length}, {SCORE: score, PEFT_LORA: lora})
    contest.run(results, suite.sizes.rounds)
