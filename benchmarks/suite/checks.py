"""Checks: after contexts of several lengths, with several lengths of answer, and several of one context."""

import time
from typing import Any

import torch

from benchmarks.peers import llama_cpp_peer, peft_peer
from benchmarks.roofline import check, seconds
from benchmarks.suite.contest import PROBE, Answer, Ask, Contest, ask_engine, ask_engine_together
from benchmarks.suite.records import Results
from benchmarks.suite.setup import ALORA, BASE, KINDS, LORA, QUESTION, Suite, own, unseen
from benchmarks.workloads import INVOCATION, random_ids

PEFT_LORA, PEFT_ALORA, LLAMA = "PEFT LoRA", "PEFT aLoRA, cache kept by hand", "llama.cpp BF16, base model"
OWN = QUESTION + len(INVOCATION)


class Peers:
    """PEFT and llama.cpp with the model loaded, once for all contests.

    Attributes:
        lora: PEFT's LoRA.
        alora: PEFT's aLoRA.
        llama: llama.cpp, or None where it cannot be imported.
    """

    def __init__(self, suite: Suite) -> None:
        """Load them."""
        path = suite.engine.model_path
        self.lora = peft_peer.load_adapter(path, suite.folder / "lora-0", suite.dtype).to(suite.device)
        self.alora = peft_peer.load_adapter(path, suite.folder / "alora-0", suite.dtype).to(suite.device)
        self.llama: llama_cpp_peer.LlamaCpp | None = None
        if suite.device.type == "cpu" and suite.dtype is torch.bfloat16 and llama_cpp_peer.available():
            gguf = llama_cpp_peer.write_gguf(path, suite.folder / "bf16.gguf")
            self.llama = llama_cpp_peer.LlamaCpp(gguf, max(suite.sizes.peer_contexts) + 256, torch.get_num_threads())


def by_context(suite: Suite, results: Results, peers: Peers) -> None:
    """One check after contexts of every length."""
    for context in suite.sizes.contexts:
        who = peers if context in suite.sizes.peer_contexts else None
        one(suite, "check", context, suite.sizes.new, who).run(results, suite.sizes.rounds_at(context))


def by_output(suite: Suite, results: Results, peers: Peers) -> None:
    """One check that answers with more and more tokens."""
    for new in suite.sizes.outputs:
        contest = one(suite, "output", suite.sizes.context, new, peers)
        contest.run(results, suite.sizes.rounds)


def one(suite: Suite, workload: str, length: int, new: int, peers: Peers | None) -> Contest:
    """A check of a context that the base model has just read; the LoRA must read it again, at every context anew."""
    context = random_ids(length, "context", workload, length)
    suite.read(context)
    params = suite.params(new)

    def ours(kind: str) -> Ask:
        def ask(turn: int) -> Answer:
            before = unseen(context, turn) if kind == LORA else context
            return ask_engine(
                suite.engine, before + _question(kind, workload, length, new, turn), params, suite.name(kind)
            )

        return ask

    asks: dict[str, Ask] = {kind: ours(kind) for kind in KINDS}
    like: dict[str, str] = {}
    if peers is not None:
        theirs, like = _peers(suite, workload, context, new, peers)
        asks |= theirs
    return Contest(workload, {"context": length, "new": new}, asks, like, _limits(suite, length, new))


def _peers(
    suite: Suite, workload: str, context: list[int], new: int, peers: Peers
) -> tuple[dict[str, Ask], dict[str, str]]:
    cache = peft_peer.context_cache(peers.alora, context, suite.device)
    length = len(context)

    def lora(turn: int) -> Answer:
        return ask_peft(peers.lora, unseen(context, turn) + _question(PEFT_LORA, workload, length, new, turn), new)

    def by_hand(turn: int) -> Answer:
        answer = ask_peft(peers.alora, context + _question(PEFT_ALORA, workload, length, new, turn), new, cache)
        cache.crop(length - cache.get_seq_length())
        return answer

    asks: dict[str, Ask] = {PEFT_ALORA: by_hand, PEFT_LORA: lora}
    like = {PEFT_ALORA: ALORA, PEFT_LORA: LORA}
    if (llama := peers.llama) is not None:
        llama.prefill(context)

        def ask_llama(turn: int) -> Answer:
            start = time.perf_counter()
            ids = llama.generate(_question(LLAMA, workload, length, new, turn), new, keep=length)
            return Answer(ids, time.perf_counter() - start)

        asks[LLAMA], like[LLAMA] = ask_llama, BASE
    return asks, like


def _question(who: str, *seed: object) -> list[int]:
    """A question of one's own, or one would find another's cached; the same for all where answers are compared."""
    return own("all" if seed[-1] == PROBE else who, *seed)


def ask_peft(model: torch.nn.Module, ids: list[int], new: int, cache: Any = None) -> Answer:
    """Greedy tokens by ``generate``, and when the first one came."""
    watch = FirstToken()
    start = time.perf_counter()
    out = peft_peer.generate(model, ids, new, cache, watch)
    seconds = time.perf_counter() - start
    return Answer(out, seconds, None if watch.at is None else watch.at - start)


class FirstToken:
    """A streamer that notes when the first token came; the prompt is streamed before it."""

    def __init__(self) -> None:
        self.at: float | None = None
        self._calls = 0

    def put(self, value: object) -> None:
        """Tokens: first the prompt's, then each one decoded."""
        self._calls += 1
        if self._calls == 2:
            self.at = time.perf_counter()

    def end(self) -> None:
        """Nothing is left to do."""


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
        contest.run(results, suite.sizes.rounds if num <= 4 else suite.sizes.long_rounds)


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

    contest = Contest("score", {"context": length}, {"alorakit aLoRA, score": score, PEFT_LORA: lora})
    contest.run(results, suite.sizes.rounds)
