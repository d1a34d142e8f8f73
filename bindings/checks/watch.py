"""Checks of an answer that is still being written: where they fall, what they cost, and when they stop it.

The partial answer's KV is forked: a check's prompt begins with the tokens that the answer has so far, whose KV the
running request holds, so that a check computes its own suffix only. It runs in the same steps as the answer.
"""

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from alorakit.bindings.checks.question import Question, Verdict
from alorakit.engine.errors import AdapterNotFoundError, ConfigError

if TYPE_CHECKING:
    from alorakit.engine.async_engine import AsyncEngine, AsyncStream
    from alorakit.engine.request import RequestOutput, StreamChunk, Usage

Every = int | Literal["sentence"]
# A full stop and the like that white space follows, or a line's end; not the number of a list's item.
_SENTENCE_END = re.compile(
    r"(?<![\n\r]\d)(?<![\n\r]\d\d)(?<!^\d)(?<!^\d\d)[.!?…]+[\"'\u201d\u2019)\]]*(?=\s)"
    r"|\S(?=[ \t]*[\n\r])"
)


@dataclass(frozen=True)
class PartialCheck:
    """One check of an answer that was being written.

    Attributes:
        requirement: The requirement in words.
        num_tokens: So many tokens of the answer were judged.
        text: Their text.
        passed: The verdict.
        probability: Of a pass; None where the adapter answers with a text.
        label: What the adapter answered.
        reason: The answer in words.
        usage: Token counts of the check; ``prompt_tokens - cached_tokens`` rows were computed for it.
        seconds: From asking to the verdict; the answer went on being written meanwhile.
    """

    requirement: str | None
    num_tokens: int
    text: str
    passed: bool
    probability: float | None
    label: str | None
    reason: str
    usage: "Usage"
    seconds: float


@dataclass(frozen=True)
class Partial:
    """The beginning of an answer.

    Attributes:
        token_ids: Its tokens.
        text: What they spell.
    """

    token_ids: tuple[int, ...]
    text: str


@dataclass
class Watched:
    """What became of an answer.

    Attributes:
        token_ids: Generated tokens, whether or not it was stopped.
        text: Their text.
        output: The engine's output; None if a check stopped it.
        usage: Token counts.
        checks: Every check, in order.
        latest: The checks of the longest beginning that was checked; one of them failed if the answer was stopped.
        seconds: From the first piece's request to the end.
    """

    token_ids: list[int] = field(default_factory=list)
    text: str = ""
    output: "RequestOutput | None" = None
    usage: "Usage | None" = None
    checks: list[PartialCheck] = field(default_factory=list)
    latest: list[PartialCheck] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def failed(self) -> bool:
        """Whether a check of the longest beginning failed."""
        return not all(check.passed for check in self.latest)


def checked_every(every: object) -> Every | None:
    """See that ``check_every`` is ``"sentence"``, a number of tokens, or None.

    Raises:
        ConfigError: It is none of these.
    """
    if every is None or every == "sentence":
        return every
    if isinstance(every, int) and not isinstance(every, bool) and every >= 1:
        return every
    raise ConfigError(f"check_every={every!r:.80} must be 'sentence', a number of tokens from 1 on, or None for never")


class Boundaries:
    """Finds the places of a growing text at which it is checked."""

    def __init__(self, every: Every) -> None:
        """At each sentence's end, or each so many tokens."""
        self._every = every
        self._ids: list[int] = []
        self._text = ""
        self._ends: list[tuple[int, int]] = []  # (tokens, characters) after each piece
        self._searched = 0
        self._last = 0

    def add(self, token_ids: Sequence[int], text: str) -> Partial | None:
        """Take the next piece; the beginning to check, if a boundary has been passed since the last one."""
        self._ids += token_ids
        self._text += text
        self._ends.append((len(self._ids), len(self._text)))
        tokens = self._boundary()
        if tokens is None or tokens <= self._last:
            return None
        self._last = tokens
        characters = next(c for t, c in self._ends if t == tokens)
        return Partial(tuple(self._ids[:tokens]), self._text[:characters])

    def _boundary(self) -> int | None:
        """How many tokens lie before the latest boundary."""
        if self._every != "sentence":
            return len(self._ids) if len(self._ids) - self._last >= self._every else None
        ends = [match.end() for match in _SENTENCE_END.finditer(self._text, self._searched)]
        if not ends:
            return None
        self._searched = ends[-1]
        return next((t for t, c in self._ends if c >= ends[-1]), None)


async def next_piece(stream: "AsyncStream", seconds: float | None = None) -> "StreamChunk | None":
    """The next piece of a stream; None at its end.

    Raises:
        TimeoutError: It took longer than so many seconds; None: it may take as long as it likes.
    """
    try:
        async with asyncio.timeout(seconds):
            return await anext(stream, None)
    except TimeoutError:
        raise TimeoutError(
            f"no piece of the answer came within stream_timeout={seconds} seconds; allow more, or leave it out"
        ) from None


async def watch(
    engine: "AsyncEngine",
    stream: "AsyncStream",
    every: Every,
    questions: Callable[[Partial], Sequence[Question]],
    requirements: Sequence[str | None],
    on_chunk: "Callable[[StreamChunk], None]" = lambda chunk: None,
    seconds: float | None = None,
) -> Watched:
    """Read a stream to its end, or until a check of what it has so far fails.

    One beginning is checked at a time; where the answer passes several boundaries meanwhile, the last one is next.

    Args:
        engine: Where the checks run, in the same steps as the stream.
        stream: The answer; given up at the first failure.
        every: See :func:`checked_every`.
        questions: The checks of a beginning, one for each of ``requirements``.
        requirements: In words.
        on_chunk: Told every piece.
        seconds: How long to wait for a piece; None: as long as it takes.

    Returns:
        The answer as far as it came, and every check.

    Raises:
        AlorakitError: The stream or a check failed; the stream is given up then.
        TimeoutError: A piece took too long.
    """
    found, boundaries, began = Watched(), Boundaries(every), time.perf_counter()
    pending: Partial | None = None
    running: asyncio.Task[list[PartialCheck]] | None = None

    async def answered(asked: Sequence[Question]) -> list[Verdict]:
        answers = await engine.batch([question.request for question in asked])
        return [question.verdict(answer) for question, answer in zip(asked, answers, strict=True)]

    async def ask(partial: Partial) -> list[PartialCheck]:
        started = time.perf_counter()
        try:
            verdicts = await answered(questions(partial))
        except AdapterNotFoundError:  # replaced since the question was made; if it is gone, the next one cannot be
            verdicts = await answered(questions(partial))
        seconds = time.perf_counter() - started
        return [_record(words, partial, v, seconds) for words, v in zip(requirements, verdicts, strict=True)]

    try:
        while (chunk := await next_piece(stream, seconds)) is not None:
            on_chunk(chunk)
            found.token_ids += chunk.token_ids
            found.text += chunk.text
            found.output = chunk.output
            pending = boundaries.add(chunk.token_ids, chunk.text) or pending
            if running is not None and (running.done() or chunk.output is not None):
                found.latest, running = await running, None
                found.checks += found.latest
                if found.failed:
                    found.output = None
                    break
            if pending is not None and running is None and chunk.output is None:
                running, pending = asyncio.create_task(ask(pending)), None
        found.usage, found.seconds = stream.usage, time.perf_counter() - began
        return found
    finally:
        await stream.aclose()
        if running is not None:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


def _record(requirement: str | None, partial: Partial, verdict: Verdict, seconds: float) -> PartialCheck:
    return PartialCheck(
        requirement=requirement,
        num_tokens=len(partial.token_ids),
        text=partial.text,
        passed=bool(verdict.passed),
        probability=verdict.score,
        label=verdict.label,
        reason=verdict.reason,
        usage=verdict.usage,
        seconds=seconds,
    )
