"""The engine for concurrent callers: one thread steps, any number of coroutines await."""

import asyncio
import threading
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Seq
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from alorakit.engine.adapters import AdapterInfo
from alorakit.engine.admission import Prompt
from alorakit.engine.engine import Engine
from alorakit.engine.errors import ConfigError, RequestError
from alorakit.engine.mixed import Answer, MixedBatch, Request, ScoreRequest
from alorakit.engine.request import RequestOutput, SamplingParams, ScoreResult, StreamChunk, Usage
from alorakit.engine.sequence import Sequence
from alorakit.engine.stats import EngineStats
from alorakit.engine.stepper import Stepper
from alorakit.engine.ticket import Ticket, settle

T = TypeVar("T")


class AsyncEngine:
    """Serves concurrent requests on one :class:`~alorakit.Engine`, to be used directly only while none is under way.

    Use it as an async context manager, or call :meth:`close`. Cancelling whatever awaits an answer (or leaving an
    ``async for``) gives the request up: its blocks are free before the next step.

    Attributes:
        config, model_config, tokenizer, model_name: The engine's.
    """

    def __init__(self, engine: Engine) -> None:
        """Start stepping ``engine``; :meth:`close` closes it too.

        Raises:
            ConfigError: ``engine`` is no Engine, or another AsyncEngine serves it.
            ClosedError: It is closed.
        """
        if not isinstance(engine, Engine):
            raise ConfigError(f"engine={engine!r:.80} is no Engine; use AsyncEngine.from_pretrained(model)")
        engine.check_open()
        self.config, self.model_config = engine.config, engine.model_config
        self.tokenizer, self.model_name = engine.tokenizer, engine.model_name
        self._engine = engine
        self._loaders: list[threading.Thread] = []
        self._stepper = Stepper(engine.scheduler, engine.loop, engine.config.max_waiting)

    @classmethod
    def from_pretrained(cls, model: str | Path, **config: object) -> "AsyncEngine":
        """Load a model; arguments and errors are those of :meth:`Engine.from_pretrained`."""
        return cls(Engine.from_pretrained(model, **config))

    async def __aenter__(self) -> "AsyncEngine":
        """Use as an async context manager; :meth:`close` is called at the end."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the engine."""
        await self.close()

    async def generate(
        self,
        prompts: Prompt | Seq[Prompt],
        sampling: SamplingParams | Seq[SamplingParams] | None = None,
        adapter: str | Seq[str | None] | None = None,
        priority: int = 0,
    ) -> list[RequestOutput]:
        """Answer prompts; arguments and result are those of :meth:`Engine.generate`.

        Args:
            prompts: A text, a list of token ids, or a list of either.
            sampling: One for all, or one per prompt; None: greedy, 16 tokens.
            adapter: One for all, or one per prompt; None is the base model.
            priority: Lower goes first; equal ones in the order they came.

        Raises:
            RequestError: A prompt or parameter is not usable; nothing is run then.
            EngineBusyError: Too many requests wait already (``EngineConfig.max_waiting``), or the engine drains.
            StepError: The step that the request was in failed; its cause is the exception.
            ClosedError: The engine is closed.
        """
        sequences = self._open().intake.requests(prompts, sampling, adapter, priority)
        await self._answered(sequences)
        return [sequence.to_output() for sequence in sequences]

    def stream(
        self, prompt: Prompt, sampling: SamplingParams | None = None, adapter: str | None = None, priority: int = 0
    ) -> "AsyncStream":
        """Answer one prompt piece by piece: ``async for chunk in engine.stream(prompt)``.

        Raises:
            RequestError: As :meth:`generate`, at the call; the other errors come with the first chunk or later.
        """
        stream, *more = self.streams(prompt, sampling, adapter, priority)
        if more:
            raise RequestError(f"n={len(more) + 1} cannot be one stream; use n=1, streams, or generate")
        return stream

    def streams(
        self, prompt: Prompt, sampling: SamplingParams | None = None, adapter: str | None = None, priority: int = 0
    ) -> "list[AsyncStream]":
        """The ``n`` answers to one prompt, each piece by piece: the samples that :meth:`generate` gives.

        Raises:
            RequestError: As :meth:`stream`.
        """
        sequences = self._open().intake.requests([prompt], sampling, adapter, priority)
        return [AsyncStream(self._stepper, sequence) for sequence in sequences]

    async def score(
        self, prompt: Prompt, candidates: Seq[str], adapter: str | None = None, end: bool = True, priority: int = 0
    ) -> ScoreResult:
        """Score candidates; arguments, result and errors are those of :meth:`Engine.score` and :meth:`generate`."""
        [answer] = await self.batch([ScoreRequest(prompt, candidates, adapter, end)], priority)
        assert isinstance(answer, ScoreResult)
        return answer

    async def batch(self, requests: Seq[Request], priority: int = 0) -> list[Answer]:
        """Answer requests of both kinds together, queued at once; see :meth:`Engine.batch` and :meth:`generate`."""
        batch = MixedBatch(self._open().intake, requests, priority)
        await self._answered(batch.sequences)
        return batch.answers()

    async def add_adapter(
        self, name: str, path: str | Path, replace: bool = False, layout: str | None = None
    ) -> AdapterInfo:
        """Register an adapter folder while requests run; see :meth:`Engine.add_adapter`."""
        engine = self._open()
        return await self._in_thread(lambda: engine.add_adapter(name, path, replace, layout))

    async def remove_adapter(self, name: str) -> None:
        """Forget an adapter; requests already admitted keep it. See :meth:`Engine.remove_adapter`."""
        self._open().remove_adapter(name)

    @property
    def engine(self) -> Engine:
        """The engine that is served: for its adapters and statistics, not for requests of its own."""
        return self._engine

    @property
    def is_open(self) -> bool:
        """Whether requests are taken: it was not closed, and its thread has not failed."""
        return self._stepper.is_open

    @property
    def adapters(self) -> Mapping[str, AdapterInfo]:
        """Registered adapters by name: a read-only snapshot."""
        return self._engine.adapters

    def stats(self) -> EngineStats:
        """Counters since the engine was made, and what its cache holds now."""
        return self._engine.stats()

    async def drain(self) -> None:
        """Wait until every request has its answer; those that come meanwhile get an EngineBusyError."""
        self._open()
        await self._stepper.drain()

    async def close(self) -> None:
        """End every request (``finish_reason="abort"``), stop the thread and close the engine; may be repeated."""
        await self._stepper.stop()
        for thread in self._loaders:
            thread.join()
        self._engine.close()

    def detach(self, wait: bool = True) -> None:
        """End every request and stop the thread, but leave the engine open; may be called from any thread.

        Args:
            wait: Return when the thread has ended. Another AsyncEngine may take the engine at once: it waits itself.
        """
        self._stepper.halt(wait)

    def check_integrity(self) -> None:
        """As :meth:`Engine.check_integrity`; only while nothing runs (after :meth:`drain`)."""
        self._engine.check_integrity()

    def _open(self) -> Engine:
        self._stepper.check_open()
        return self._engine

    async def _answered(self, sequences: list[Sequence]) -> None:
        """Run sequences to their end; whatever happens to the caller, none is left behind."""
        if not sequences:
            return
        ticket = Ticket(sequences)
        self._stepper.submit(ticket)
        try:
            await ticket.done
        finally:
            self._stepper.give_up(ticket)
        for sequence in sequences:
            if sequence.error is not None:
                raise sequence.error

    def _in_thread(self, function: Callable[[], T]) -> "asyncio.Future[T]":
        """Run a function in a thread of its own; :meth:`close` waits for it."""
        event_loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = event_loop.create_future()

        def run() -> None:
            try:
                outcome: tuple[T | None, BaseException | None] = function(), None
            except BaseException as exc:
                outcome = None, exc
            with suppress(RuntimeError):  # the event loop is closed: nobody waits any more
                event_loop.call_soon_threadsafe(settle, future, *outcome)

        thread = threading.Thread(target=run, name="alorakit-load", daemon=True)
        self._loaders = [t for t in self._loaders if t.is_alive()] + [thread]
        thread.start()
        return future


class AsyncStream:
    """The chunks of one request; what :meth:`AsyncEngine.stream` returns.

    The request is queued when the first chunk is asked for. It is given up when asking is cancelled, by
    :meth:`aclose`, and when nobody holds the stream any more (as after ``break``).
    """

    def __init__(self, stepper: Stepper, sequence: Sequence) -> None:
        """A stream of ``sequence``, which is not queued yet."""
        self._stepper, self._sequence = stepper, sequence
        self._ticket: Ticket | None = None
        self._ended = False

    def __aiter__(self) -> "AsyncStream":
        """The stream itself."""
        return self

    async def __anext__(self) -> StreamChunk:
        """The next chunk; the last one carries ``finish_reason`` and ``output``.

        Raises:
            EngineBusyError, StepError, NumericsError, ClosedError: See :meth:`AsyncEngine.generate`.
        """
        if self._ended:
            raise StopAsyncIteration
        try:
            if self._ticket is None:
                ticket = Ticket([self._sequence], streams=True)
                self._stepper.submit(ticket)
                self._ticket = ticket
            chunk = await self._ticket.chunks.get()
        except BaseException:
            await self.aclose()
            raise
        self._ended = chunk.finish_reason is not None
        if self._ended and self._sequence.error is not None:
            raise self._sequence.error
        return chunk

    @property
    def usage(self) -> Usage:
        """Token counts of the request so far."""
        return self._sequence.usage

    @property
    def logprobs(self) -> Seq[Mapping[int, float]]:
        """As :attr:`RequestOutput.logprobs`, of the tokens so far; a live view, empty unless asked for."""
        return self._sequence.token_logprobs

    @property
    def prompt_logprobs(self) -> Seq[Mapping[int, float]]:
        """As :attr:`RequestOutput.prompt_logprobs` from the second token on; whole when the first chunk has come."""
        return self._sequence.prompt_logprobs

    async def aclose(self) -> None:
        """Give the request up, if it has not ended."""
        self._give_up()

    def __del__(self) -> None:
        self._give_up()

    def _give_up(self) -> None:
        if self._ticket is not None and not self._ended:
            self._stepper.give_up(self._ticket)
        self._ended = True
