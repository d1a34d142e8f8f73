"""/v1/chat/completions."""

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from alorakit.bindings.checks.answering import chat_ids
from alorakit.bindings.server.access import Access
from alorakit.bindings.server.answering import Answering, Choice
from alorakit.bindings.server.errors import HttpError
from alorakit.bindings.server.logprobs import chat_logprobs
from alorakit.bindings.server.openapi import ERRORS
from alorakit.bindings.server.prompts import plain_messages, template_variables
from alorakit.bindings.server.sampling import (
    Structured,
    check_logprobs,
    longest,
    sampling_params,
    structured_of,
    token_limit,
)
from alorakit.bindings.server.schemas import EVENTS
from alorakit.bindings.server.schemas_chat import (
    ChatCompletion,
    ChatRequest,
    JsonObjectFormat,
    JsonSchemaFormat,
    ResponseFormat,
)
from alorakit.bindings.server.state import ServerState, state_of
from alorakit.bindings.server.tools import ToolText, parse_calls
from alorakit.engine.request import RequestOutput, SamplingParams, StreamChunk

if TYPE_CHECKING:
    from alorakit.engine.async_engine import AsyncStream

router = APIRouter()


@router.post("/v1/chat/completions", response_model=ChatCompletion, responses={**ERRORS, **EVENTS}, tags=["chat"])
async def chat_completions(
    body: ChatRequest, request: Request, state: Annotated[ServerState, Depends(state_of)]
) -> Response:
    """Go on with a chat; earlier answers of the model are found in its cache, to the token."""
    return await ChatAnswering(state, body, request.scope["alorakit.access"]).respond(request)


class ChatAnswering(Answering):
    """A chat and its next turn."""

    prefix, kind, chunk_kind = "chatcmpl-", "chat.completion", "chat.completion.chunk"
    body: ChatRequest

    def __init__(self, state: ServerState, body: ChatRequest, access: Access) -> None:
        """For a request to the server.

        Raises:
            HttpError: The request is not usable.
        """
        super().__init__(state, body, access)
        if body.top_logprobs and not body.logprobs:
            raise HttpError(400, "top_logprobs needs logprobs; set logprobs to true", param="top_logprobs")
        self._messages = plain_messages(body.messages)
        self._variables = template_variables(self.engine.tokenizer, body, body.model)
        self._names = [tool.function.name for tool in body.tools or ()] if "tools" in self._variables else []
        self._most_calls = 1 if body.parallel_tool_calls is False else None
        self._tool_texts: dict[int, ToolText] = {}
        self._sent: dict[int, int] = {}
        if state.config.log_prompts:
            access.texts["messages"] = self._messages

    def streams(self) -> "list[AsyncStream]":
        """See :class:`Answering`."""
        body, untrusted = self.body, not self.state.config.trust_special_tokens
        messages = self.state.history.restore(self._messages)
        opened = body.add_generation_prompt is not False
        ids = chat_ids(self.engine.tokenizer, self.info, messages, opened, untrusted, self._variables)
        return self.engine.streams(ids, self._params(), None if self.info is None else self.info.name)

    def _params(self) -> SamplingParams:
        body = self.body
        name = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
        limit = token_limit(self.state.config, self.engine, getattr(body, name), name, None)
        logprobs = (body.top_logprobs or 0) if body.logprobs else None
        check_logprobs(logprobs, self.n * min(limit, longest(self.engine)))
        return sampling_params(body, limit, structured_of(body, _structured(body.response_format)), logprobs=logprobs)

    def opening(self, index: int) -> Choice:
        """The chunk that says whose turn it is."""
        return _chunk(index, {"role": "assistant", "content": ""})

    def delta(self, index: int, chunk: StreamChunk, stream: "AsyncStream") -> Choice | None:
        """See :class:`Answering`."""
        text, logprobs = chunk.text, None
        if self._names:
            text = self._tool_texts.setdefault(index, ToolText(self._names)).push(text)
        if self.body.logprobs and chunk.token_ids:
            start = self._sent.get(index, 0)
            end = self._sent[index] = start + len(chunk.token_ids)
            logprobs = self._logprobs(chunk.token_ids, stream.logprobs[start:end])
        return _chunk(index, {"content": text}, logprobs) if text or logprobs else None

    def closing(self, index: int, output: RequestOutput) -> list[Choice]:
        """See :class:`Answering`."""
        rest, calls = self._tool_texts[index].finish() if self._names else ("", [])
        calls = calls[: self._most_calls]
        last = _chunk(index, {}, reason=_reason(output, calls))
        found = [_chunk(index, {"content": rest})] if rest else []
        if calls:
            found.append(_chunk(index, {"tool_calls": [{"index": at, **call} for at, call in enumerate(calls)]}))
        return [*found, last]

    def choice(self, index: int, output: RequestOutput) -> Choice:
        """See :class:`Answering`."""
        text, calls = parse_calls(output.text, self._names) if self._names else (output.text, [])
        calls = calls[: self._most_calls]
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        if calls:
            message |= {"content": text or None, "tool_calls": calls}
        logprobs = None if output.logprobs is None else self._logprobs(output.token_ids, output.logprobs)
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": _reason(output, calls)}

    def ended(self, output: RequestOutput) -> None:
        """Remember what the answer was generated as: the client will send its text back."""
        super().ended(output)
        self.state.history.add(self._messages, output.text, output.token_ids)

    def _logprobs(self, ids: list[int], logprobs: Any) -> dict[str, Any]:
        return chat_logprobs(self.engine.tokenizer, ids, logprobs, self.body.top_logprobs or 0)


def _structured(given: ResponseFormat | None) -> Structured | None:
    if isinstance(given, JsonSchemaFormat):
        return given.json_schema.schema_
    return {"type": "object"} if isinstance(given, JsonObjectFormat) else None


def _chunk(index: int, delta: dict[str, Any], logprobs: Any = None, reason: str | None = None) -> Choice:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}


def _reason(output: RequestOutput, calls: list[Any]) -> str:
    return "tool_calls" if calls and output.finish_reason == "stop" else output.finish_reason
