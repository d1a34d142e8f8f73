"""How both completion endpoints answer: streams of the engine, sent as they come or gathered into one answer."""

import asyncio
import json
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, ClassVar

from fastapi import Request
from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from alorakit.bindings.server.access import Access
from alorakit.bindings.server.connection import ClientGone, while_connected
from alorakit.bindings.server.errors import HttpError, as_http_error, json_response
from alorakit.bindings.server.schemas import Sampling
from alorakit.bindings.server.state import ServerState
from alorakit.engine.request import RequestOutput, StreamChunk
from alorakit.engine.request import Usage as EngineUsage

if TYPE_CHECKING:
    from alorakit.engine.async_engine import AsyncEngine, AsyncStream

Choice = dict[str, Any]
EVENT_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx would gather the events
]


class Answering(ABC):
    """One request and its answer.

    Attributes:
        state, body, access, engine: The server's state, the request, its record, and what answers.
        info: The adapter that answers, or None for the base model.
        n: Answers to each prompt.
    """

    prefix: ClassVar[str]
    kind: ClassVar[str]
    chunk_kind: ClassVar[str]

    def __init__(self, state: ServerState, body: Sampling, access: Access) -> None:
        """For a request to the server.

        Raises:
            HttpError: 404: there is no such model.
        """
        access.model, access.stream = body.model, bool(body.stream)
        self.state, self.body, self.access = state, body, access
        self.engine: AsyncEngine = state.serving()
        self.info = state.adapter_of(body.model)
        self.n = body.n or 1
        self._head = {"id": f"{self.prefix}{secrets.token_hex(14)}", "created": int(time.time()), "model": body.model}
        self._head["system_fingerprint"] = None
        self._streams: Sequence[AsyncStream] = ()

    @abstractmethod
    def streams(self) -> "list[AsyncStream]":
        """The engine's streams, ``n`` for each prompt; called in a thread, since it tokenizes and compiles grammars."""

    @abstractmethod
    def opening(self, index: int) -> Choice | None:
        """What a streamed answer begins with."""

    @abstractmethod
    def delta(self, index: int, chunk: StreamChunk, stream: "AsyncStream") -> Choice | None:
        """A piece of a streamed answer; None if there is nothing to send yet."""

    @abstractmethod
    def closing(self, index: int, output: RequestOutput) -> list[Choice]:
        """What a streamed answer ends with; the last one says why."""

    @abstractmethod
    def choice(self, index: int, output: RequestOutput) -> Choice:
        """A whole answer."""

    def ended(self, output: RequestOutput) -> None:
        """An answer has come to its end."""
        if self.state.config.log_prompts:
            self.access.texts.setdefault("answers", []).append(output.text)

    async def respond(self, request: Request) -> Response:
        """The response, whole or as a stream.

        Raises:
            HttpError, AlorakitError: The request is not usable, or failed.
            ClientGone: The client went away; its sequences are given up.
        """
        if self.body.stream:
            return EventStream(self)
        limit_s = self.state.config.request_timeout_s
        return json_response(await while_connected(request.receive, self._whole(), limit_s))

    async def _whole(self) -> dict[str, Any]:
        choices: dict[int, Choice] = {}
        async with aclosing(self.chunks()) as chunks:
            async for index, chunk in chunks:
                if chunk.output is not None:
                    choices[index] = self.choice(index, chunk.output)
        ordered = [choices[index] for index in sorted(choices)]
        return {"object": self.kind, **self._head, "choices": ordered, "usage": self.usage()}

    async def chunks(self) -> AsyncGenerator[tuple[int, StreamChunk]]:
        """The chunks of all streams, each with its stream's index; leaving early gives the streams up.

        Raises:
            HttpError: 503: the engine was closed meanwhile.
        """
        try:
            self._streams = await asyncio.to_thread(self.streams)
            async with aclosing(_merged(self._streams)) as merged:
                async for index, chunk in merged:
                    self.access.first()
                    if chunk.finish_reason == "abort":
                        raise HttpError(503, "the server is ending and gave the request up; send it again")
                    if chunk.output is not None:
                        self.ended(chunk.output)
                    yield index, chunk
        finally:
            for stream in self._streams:
                await stream.aclose()
            self.access.usage = self._counted()

    async def events(self) -> AsyncGenerator[bytes]:
        """The events of a streamed answer, as many at a time as a step brought."""
        asked = self.body.stream_options is not None and bool(self.body.stream_options.include_usage)
        opened: set[int] = set()
        async with aclosing(self.chunks()) as chunks:
            async for index, chunk in chunks:
                choices: list[Choice | None] = []
                if index not in opened:
                    opened.add(index)
                    choices.append(self.opening(index))
                choices.append(self.delta(index, chunk, self._streams[index]))
                if chunk.output is not None:
                    choices += self.closing(index, chunk.output)
                if data := b"".join(self._event([choice], asked) for choice in choices if choice is not None):
                    yield data
        end = b"data: [DONE]\n\n"
        yield self._event([], asked, self.usage()) + end if asked else end

    def _event(self, choices: list[Choice], asked: bool, usage: dict[str, Any] | None = None) -> bytes:
        body = {"object": self.chunk_kind, **self._head, "choices": choices}
        if asked:
            body["usage"] = usage
        return _event(body)

    def usage(self) -> dict[str, Any]:
        """Token counts so far; a prompt counts once, however many answers it gets."""
        total = self._counted()
        return {
            "prompt_tokens": total.prompt_tokens,
            "completion_tokens": total.completion_tokens,
            "total_tokens": total.prompt_tokens + total.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": total.cached_tokens},
        }

    def _counted(self) -> EngineUsage:
        counts = [stream.usage for stream in self._streams]
        firsts = counts[:: self.n]
        return EngineUsage(
            sum(usage.prompt_tokens for usage in firsts),
            sum(usage.cached_tokens for usage in firsts),
            sum(usage.completion_tokens for usage in counts),
        )


class EventStream(Response):
    """Server-sent events. The head is sent with the first of them, so that an error before it has its own status."""

    def __init__(self, answering: Answering) -> None:
        """Sends the events of ``answering``."""
        super().__init__(media_type="text/event-stream")
        self._answering = answering

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events; the client's going away ends it."""
        answering = self._answering
        started = False

        async def work() -> None:
            nonlocal started
            async with aclosing(answering.events()) as events:
                async for data in events:
                    if not started:
                        started = True
                        await send({"type": "http.response.start", "status": 200, "headers": EVENT_HEADERS})
                    await send({"type": "http.response.body", "body": data, "more_body": True})

        last = b""
        try:
            await while_connected(receive, work(), answering.state.config.request_timeout_s)
        except ClientGone:
            raise
        except Exception as error:
            if not started:
                raise
            told = as_http_error(error, answering.access.request_id)
            answering.access.error = told.code
            last = _event(told.body())
        await send({"type": "http.response.body", "body": last, "more_body": False})


def _event(content: dict[str, Any]) -> bytes:
    return b"data: %b\n\n" % json.dumps(content, separators=(",", ":")).encode()


async def _merged(streams: "Sequence[AsyncStream]") -> AsyncGenerator[tuple[int, StreamChunk]]:
    """The chunks of several streams as they come."""
    if len(streams) == 1:
        async for chunk in streams[0]:
            yield 0, chunk
        return
    queue: asyncio.Queue[tuple[int, StreamChunk] | Exception] = asyncio.Queue()
    tasks = [asyncio.ensure_future(_pump(index, stream, queue)) for index, stream in enumerate(streams)]
    try:
        left = len(tasks)
        while left:
            item = await queue.get()
            if isinstance(item, Exception):
                raise item
            left -= item[1].finish_reason is not None
            yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pump(
    index: int, stream: AsyncIterator[StreamChunk], queue: "asyncio.Queue[tuple[int, StreamChunk] | Exception]"
) -> None:
    try:
        async for chunk in stream:
            queue.put_nowait((index, chunk))
    except Exception as error:
        queue.put_nowait(error)
