"""Whole programs: answer, checks, repair, checks again; and a chat of several turns with a check after each."""

import time
from dataclasses import dataclass, field

from benchmarks.suite.contest import Answer, Ask, Contest, ask_engine, ask_engine_together
from benchmarks.suite.records import Results
from benchmarks.suite.setup import KINDS, Suite, own
from benchmarks.workloads import random_ids

CHECKS, ANSWER = 3, 32


@dataclass
class Program:
    """A program under way: the chat so far, and what it took.

    Attributes:
        suite: The engine.
        kind: Who checks.
        chat: Tokens so far; what the base model decoded is kept as it was decoded.
        answers: Of every call.
    """

    suite: Suite
    kind: str
    chat: list[int]
    answers: list[Answer] = field(default_factory=list)

    def answer(self) -> None:
        """The base model goes on."""
        found = ask_engine(self.suite.engine, self.chat, self.suite.params(ANSWER), None)
        self.chat += found.ids
        self.answers.append(found)

    def check(self, num: int, *seed: object) -> None:
        """``num`` checks of the chat so far, asked together."""
        prompts = [self.chat + own(self.kind, *seed, index) for index in range(num)]
        names = [self.suite.name(self.kind, index % self.suite.sizes.adapters) for index in range(num)]
        self.answers.append(
            ask_engine_together(self.suite.engine, prompts, self.suite.params(self.suite.sizes.new), names)
        )

    def total(self, seconds: float) -> Answer:
        """All calls as one answer."""
        return Answer(
            self.chat,
            seconds,
            self.answers[0].first,
            sum(answer.computed or 0 for answer in self.answers),
            sum(answer.cached or 0 for answer in self.answers),
        )


def chain(suite: Suite, results: Results) -> None:
    """The base model answers, three checks read it, the base model repairs it, three checks read that."""
    length = min(suite.sizes.context, 1024)

    def ask_as(kind: str) -> Ask:
        def ask(turn: int) -> Answer:
            program = Program(suite, kind, random_ids(length, "chain", kind, turn))
            start = time.perf_counter()
            program.answer()
            program.check(CHECKS, "first", turn)
            program.chat += random_ids(12, "repair", turn)
            program.answer()
            program.check(CHECKS, "second", turn)
            return program.total(time.perf_counter() - start)

        return ask

    Contest("chain", {"context": length, "checks": 2 * CHECKS}, {k: ask_as(k) for k in KINDS}).run(
        results, suite.sizes.long_rounds + 1, warmup=0
    )


def agent(suite: Suite, results: Results) -> None:
    """Some turns of a chat: the user adds 100 tokens, the base model answers, one check reads all of it."""
    turns = suite.sizes.turns

    def ask_as(kind: str) -> Ask:
        def ask(turn: int) -> Answer:
            program = Program(suite, kind, random_ids(200, "agent", kind, turn))
            start = time.perf_counter()
            for step in range(turns):
                program.chat += random_ids(100, "user", kind, turn, step)
                program.answer()
                program.check(1, turn, step)
            return program.total(time.perf_counter() - start)

        return ask

    Contest("agent", {"turns": turns}, {k: ask_as(k) for k in KINDS}).run(
        results, suite.sizes.long_rounds + 1, warmup=0
    )
