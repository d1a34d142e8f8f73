"""The engine's loop: schedule, build, run, sample, finish; and what drives it for one call."""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor

from alorakit.engine.counters import Counters
from alorakit.engine.errors import as_step_error
from alorakit.engine.request import StreamChunk
from alorakit.engine.runner import AnyRunner
from alorakit.engine.sampler import Sampler
from alorakit.engine.schedule import Entry, Schedule
from alorakit.engine.scheduler import Scheduler
from alorakit.engine.sequence import Sequence, Status

if TYPE_CHECKING:
    from alorakit.engine.stepper import Stepper

R = TypeVar("R")


class Loop:
    """Steps the scheduler and the runner; every sequence it is given ends, with an answer or an error.

    Attributes:
        stepper: The thread that steps for an AsyncEngine, while there is one.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        runner: AnyRunner,
        sampler: Sampler,
        counters: Counters,
        eos_token_ids: frozenset[int],
    ) -> None:
        """A loop over the three; ``eos_token_ids`` end a sequence."""
        self._scheduler, self._counters, self._eos = scheduler, counters, eos_token_ids
        self._runner, self._sampler = runner, sampler
        self.stepper: Stepper | None = None
        # Looked up at each call, so that a test or a profiler can put its own function in place.
        self._schedule = self._timed("schedule", lambda: scheduler.schedule())
        self._build = self._timed("build", lambda plan: runner.build(plan))
        self._run = self._timed("model", lambda batch: runner.run(batch))
        self._sample = self._timed("sample", self._choose)
        self._finish = self._timed("finish", self._advance_all)

    def step(self) -> list[Sequence]:
        """One forward pass over whatever is scheduled; returns the sequences whose rows were in it."""
        plan = self._schedule()
        batch = self._build(plan)
        logits = self._run(batch)
        tokens = self._sample(logits, batch.wanted)
        return self._finish(plan, tokens)

    def advance(self) -> list[Sequence]:
        """Make a step. If it fails, the sequences in it end with its error, and the others go on.

        Returns:
            The sequences that have new tokens, or have ended.
        """
        started, decoded = time.perf_counter(), self._counters.decoded
        try:
            return self.step()
        except Exception as exc:
            return self._fail(exc)
        except BaseException:  # Ctrl-C: the sequences may go on later
            self._roll_back()
            raise
        finally:
            self._counters.rate.add(self._counters.decoded - decoded, time.perf_counter() - started)

    def run(self, sequences: list[Sequence]) -> None:
        """Queue sequences and step until all of them are done; whatever happens, none is left behind.

        Raises:
            AlorakitError: The error of the first of them that has one.
        """
        for sequence in sequences:
            self._scheduler.add(sequence)
        try:
            while any(s.status is not Status.FINISHED for s in sequences):
                self.advance()
        finally:
            for sequence in sequences:
                self.abort(sequence)
        for sequence in sequences:
            if sequence.error is not None:
                raise sequence.error

    def stream(self, sequence: Sequence) -> Iterator[StreamChunk]:
        """Queue one sequence and yield its text and ids as they become final; leaving early gives it up."""
        self._scheduler.add(sequence)
        try:
            done = False
            while not done:
                if sequence.status is not Status.FINISHED:  # another call's steps may have ended it meanwhile
                    self.advance()
                done = sequence.status is Status.FINISHED
                if sequence.error is not None:
                    raise sequence.error
                if chunk := sequence.next_chunk():
                    yield chunk
        finally:
            self.abort(sequence)

    def halt(self) -> None:
        """End the thread that steps for an AsyncEngine, and its sequences, if there is one in this process."""
        if self.stepper is not None and self.stepper.is_alive:
            self.stepper.halt(wait=True)

    def abort(self, sequence: Sequence) -> None:
        """Give a sequence up, if it has not ended; its blocks are free at once."""
        if sequence.status is not Status.FINISHED:
            self._scheduler.end(sequence, "abort")

    def _fail(self, cause: Exception) -> list[Sequence]:
        """End the sequences of the failed step. If none was chosen yet, every sequence: else none would ever end."""
        hit = self._roll_back() or [*self._scheduler.running, *self._scheduler.waiting]
        for sequence in hit:
            if sequence.status is not Status.FINISHED:
                sequence.error = sequence.error or as_step_error(cause)
                self._scheduler.end(sequence, "error")
        return hit

    def _roll_back(self) -> list[Sequence]:
        """See ``Scheduler.roll_back``; the device may still be reading what the next step overwrites."""
        with suppress(Exception):
            self._runner.check()
        return self._scheduler.roll_back()

    def _choose(self, logits: Tensor, wanted: list[Entry]) -> list[list[int]]:
        """Next tokens; and the errors of sequences whose values are not finite, which are known by now."""
        tokens = self._sampler.sample(logits, wanted)
        self._runner.check()
        return tokens

    def _advance_all(self, plan: Schedule, tokens: list[list[int]]) -> list[Sequence]:
        new = iter(tokens)
        for entry in plan.entries:
            chosen = next(new) if entry.logits_rows else []
            if entry.completes and entry.sequence.error is None:
                self._advance(entry.sequence, chosen)
        self._counters.rows += plan.num_rows
        self._counters.steps += 1
        return self._scheduler.finish(plan)

    def _advance(self, sequence: Sequence, tokens: list[int]) -> None:
        """Add new tokens (none to a scored sequence, which is done) and decide whether they end it."""
        if sequence.first_token is None:
            sequence.first_token = time.perf_counter()
        if sequence.branches is not None:
            sequence.finish_reason = "stop"
        try:
            for token in tokens:
                if sequence.finish_reason is None:
                    sequence.append(token, self._eos)
                    self._counters.decoded += 1
        except Exception as exc:  # its text cannot be had; the others' can
            sequence.error = as_step_error(exc)

    def _timed(self, stage: str, function: Callable[..., R]) -> Callable[..., R]:
        """``function``, its time added to the stage's."""

        def run(*args: Any) -> R:
            start = time.perf_counter()
            try:
                return function(*args)
            finally:
                self._counters.seconds[stage] += time.perf_counter() - start

        return run
