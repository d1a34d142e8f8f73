"""Mellea's thunks over the engine's answers."""

import asyncio
import datetime
import functools
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from mellea.backends.utils import to_tool_calls
from mellea.core import GenerateLog, ModelOutputThunk
from mellea.core.base import GenerateType
from mellea.helpers.async_helpers import send_to_queue

from alorakit.bindings.mellea.options import CallOptions
from alorakit.bindings.mellea.thinking import split_thinking
from alorakit.engine.request import RequestOutput, ScoreResult, Usage

PROVIDER = "alorakit"


@dataclass
class Answered:
    """An answer in the form that a thunk takes.

    Attributes:
        text: What the thunk says.
        output: The engine's own answer.
        usage: Token counts.
        finish_reason: ``"stop"``, ``"length"``, ``"abort"``.
        details: What else is known, for ``thunk._meta["alorakit"]``.
    """

    text: str
    output: RequestOutput | ScoreResult
    usage: Usage
    finish_reason: str
    details: dict[str, Any] = field(default_factory=dict)


@dataclass
class Call:
    """One call, as a thunk remembers it.

    Attributes:
        action: What was asked.
        view: What the context showed.
        prompt: The chat that was rendered, or the text.
        options: Its options.
        model: Name of the model.
        adapter: Qualified name of the adapter that answers, or None for the base model.
        format: The pydantic model that the answer obeys, or None.
        tools: Tools that the model was shown, by name.
        wants_tools: Whether tool calls are looked for.
        thinks: Whether thinking is split off the answer.
        finished: Told the engine's answer when it is whole.
    """

    action: Any
    view: Any
    prompt: Any
    options: CallOptions
    model: str
    adapter: str | None = None
    format: Any = None
    tools: dict[str, Any] = field(default_factory=dict)
    wants_tools: bool = False
    thinks: bool = False
    finished: Callable[[Any], None] = lambda answer: None


class _Pieces(asyncio.Queue[Any]):
    """A thunk's queue whose last item, if it is an error, is there for everybody who asks.

    In Mellea the first to await the thunk takes the error out, and the next would wait for ever.
    """

    _error: Exception | None = None

    def _get(self) -> Any:
        item = super()._get()
        self._error = item if isinstance(item, Exception) else None
        return item

    async def get(self) -> Any:
        return self._error if self._error is not None and self.empty() else await super().get()


def start(call: Call, response: Coroutine[Any, Any, Any] | AsyncIterator[Any]) -> Any:
    """A thunk that ``response`` fills: a coroutine of :class:`Answered`, or a stream of the engine's chunks.

    Must be called from a running event loop. Cancelling the thunk gives the request up.
    """
    thunk = ModelOutputThunk(None)
    thunk._gen.start, thunk._gen.queue = datetime.datetime.now(), _Pieces(thunk._gen.queue.maxsize)
    _describe(thunk, call)
    thunk._gen.process = _take
    thunk._gen.post_process = functools.partial(_finish, call=call)
    queue = send_to_queue(response, thunk, chunk_timeout=call.options.stream_timeout)
    thunk._gen.generate = asyncio.create_task(queue)
    thunk._gen.generate_type = GenerateType.ASYNC
    return thunk


def computed(call: Call, answer: Answered) -> Any:
    """A thunk that is computed already."""
    thunk = ModelOutputThunk(answer.text)
    _describe(thunk, call)
    thunk.raw.response = answer
    _settle(thunk, call)
    action = call.action
    thunk.parsed_repr = action.parse(thunk) if hasattr(action, "parse") else thunk.value
    return thunk


def usage_dict(usage: Usage) -> dict[str, Any]:
    """Token counts as the OpenAI interface has them."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def written(output: RequestOutput) -> Answered:
    """A generated text."""
    return Answered(output.text, output, output.usage, output.finish_reason)


def _describe(thunk: Any, call: Call) -> None:
    thunk._call.action = call.action
    thunk._call.context = call.view
    thunk._call.model_options = call.options.merged
    thunk.generation.model = call.model
    thunk.generation.provider = PROVIDER
    thunk.raw.provider = PROVIDER


async def _take(thunk: Any, chunk: Any) -> None:
    """Fold a piece into the thunk: a stream's chunk, or the whole answer."""
    thunk._underlying_value = (thunk._underlying_value or "") + chunk.text
    if isinstance(chunk, Answered):
        thunk.raw.response = chunk
    elif chunk.output is not None:
        thunk.raw.response = written(chunk.output)


async def _finish(thunk: Any, call: Call) -> None:
    _settle(thunk, call)


def _settle(thunk: Any, call: Call) -> None:
    """What is known once the answer is whole: counts, thinking, tool calls, the log."""
    answer = thunk.raw.response
    output = answer.output
    thunk.raw.response = output
    call.finished(output)
    thunk.generation.usage = usage_dict(answer.usage)
    thunk.generation.finish_reasons = [answer.finish_reason]
    timing = output.timing
    thunk._meta["alorakit"] = {
        "adapter": call.adapter,
        "cached_tokens": answer.usage.cached_tokens,
        "activation": output.activation,
        "queue_s": timing.queue_s,
        "ttft_s": timing.ttft_s,
        "total_s": timing.total_s,
        **answer.details,
    }
    # A stream's text only grows, so nothing is taken from it any more.
    if call.thinks and not call.options.stream:
        thinking, text = split_thinking(thunk.value)
        if thinking is not None:
            thunk.thinking, thunk.value = thinking, text
    if call.wants_tools and call.format is None:
        thunk.tool_calls = to_tool_calls(call.tools, thunk.value)
    log = GenerateLog()
    log.prompt = call.prompt
    log.backend = f"{PROVIDER}::{call.model}"
    log.model_options = call.options.merged
    log.date = datetime.datetime.now()
    log.model_output = thunk.value
    log.extra = {
        "format": call.format,
        "tools_available": call.tools,
        "tools_called": thunk.tool_calls,
        "seed": call.options.sampling.get("seed"),
        "thinking": thunk.thinking,
    }
    log.action = call.action
    log.result = thunk
    thunk._generate_log = log
