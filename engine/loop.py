"""The engine's loop: schedule, build, run, sample, finish; and what drives it for one call."""

import time
from collections.abc import Iterator

from alorakit.engine import batch as batches
from alorakit.engine.request import StreamChunk
from alorakit.engine.runner import Runner
from alorakit.engine.sampler import Sampler
from alorakit.engine.scheduler import Scheduler
from alorakit.engine.sequence import Sequence, Status


class Loop:
    """Steps the scheduler and the runner until sequences are done.

    Attributes:
        num_requests: Sequences answered.
        tokens_cached: Their prompt tokens that were found in the cache.
    """

    def __init__(self, scheduler: Scheduler, runner: Runner, sampler: Sampler, eos_token_ids: frozenset[int]) -> None:
        """A loop over the three; ``eos_token_ids`` end a sequence."""
        self._scheduler, self._runner, self._sampler, self._eos = scheduler, runner, sampler, eos_token_ids
        self.num_requests = self.tokens_cached = 0

    def step(self) -> None:
        """One forward pass over whatever is scheduled."""
        plan = self._scheduler.schedule()
        try:
            model = self._runner.model
            size, slots = self._runner.cache.block_size, self._scheduler.slots
            batch = batches.build(plan, model.config, size, model.dtype, model.device, slots)
            logits = self._runner.run(batch)
            tokens = self._sampler.sample(logits, batch.wanted)
        except BaseException:
            self._scheduler.roll_back(plan)
            raise
        for entry, new in zip(batch.wanted, tokens, strict=True):
            if entry.completes:
                self._advance(entry.sequence, new)
        self._scheduler.finish(plan)

    def _advance(self, sequence: Sequence, tokens: list[int]) -> None:
        """Add new tokens (none to a scored sequence, which is done) and decide whether they end it."""
        if sequence.error is not None:
            return
        if sequence.first_token is None:
            sequence.first_token = time.perf_counter()
        if sequence.branches is not None:
            sequence.finish_reason = "stop"
        for token in tokens:
            if sequence.finish_reason is None:
                self._append(sequence, token)
        if sequence.finish_reason is not None:
            self.num_requests += 1
            self.tokens_cached += sequence.num_cached or 0

    def _append(self, sequence: Sequence, token: int) -> None:
        sequence.tokens.append(token)
        params, output = sequence.sampling, sequence.output
        if token in params.stop_ids or (token in self._eos and not params.ignore_eos):
            output.push_silent(token)
            output.finish()
            sequence.finish_reason = "stop"
        elif output.push(token):
            sequence.finish_reason = "stop"
        elif len(sequence.tokens) >= sequence.max_len:
            sequence.finish_reason = "stop" if output.finish() else "length"

    def run(self, sequences: list[Sequence]) -> None:
        """Queue sequences and step until all of them are done; whatever happens, none is left behind.

        Raises:
            AlorakitError: The error of the first of them that has one.
        """
        for sequence in sequences:
            self._scheduler.add(sequence)
        try:
            while any(s.status is not Status.FINISHED for s in sequences):
                self.step()
        finally:
            self._abort(sequences)
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
                    self.step()
                done = sequence.status is Status.FINISHED
                if sequence.error is not None:
                    raise sequence.error
                text, ids = sequence.output.stream(final=done)
                if done:
                    yield StreamChunk(text, ids, sequence.finish_reason, sequence.to_output())
                elif text or ids:
                    yield StreamChunk(text, ids)
        finally:
            self._abort([sequence])

    def _abort(self, sequences: list[Sequence]) -> None:
        for sequence in sequences:
            if sequence.status is not Status.FINISHED:
                self._scheduler.end(sequence, "abort")
