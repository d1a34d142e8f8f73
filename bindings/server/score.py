"""/v1/score: how likely each of some texts is to come next; one batched pass, nothing decoded."""

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from alorakit.bindings.checks.answering import chat_ids
from alorakit.bindings.server.checks import timing_of, usage_of
from alorakit.bindings.server.connection import while_connected
from alorakit.bindings.server.errors import HttpError, json_response
from alorakit.bindings.server.openapi import ERRORS
from alorakit.bindings.server.prompts import plain_messages
from alorakit.bindings.server.schemas_checks import ScoreRequest, ScoreResponse
from alorakit.bindings.server.state import ServerState, state_of
from alorakit.engine.errors import MissingInvocationError

if TYPE_CHECKING:
    from alorakit.engine.adapters import AdapterInfo
    from alorakit.engine.request import ScoreResult

router = APIRouter()


@router.post("/v1/score", responses={200: {"model": ScoreResponse}, **ERRORS}, tags=["checks"])
async def score(wanted: ScoreRequest, request: Request, state: Annotated[ServerState, Depends(state_of)]) -> Response:
    """Score candidates as what follows a prompt or a chat."""
    access = request.scope["alorakit.access"]
    access.model = wanted.model
    if (wanted.prompt is None) == (wanted.messages is None):
        raise HttpError(400, "give one of prompt and messages", param="prompt")
    result = await while_connected(request.receive, _scored(wanted, state), state.config.request_timeout_s)
    access.first()
    access.count(result.usage)
    if state.config.log_prompts:
        access.texts = {"prompt": wanted.prompt, "messages": wanted.model_dump()["messages"], "best": result.best.text}
    scores = [
        {"text": each.text, "logprob": each.logprob, "probability": each.probability, "token_ids": each.token_ids}
        for each in result
    ]
    content: dict[str, Any] = {"object": "score", "model": wanted.model, "scores": scores, "best": result.best.text}
    content |= {"usage": usage_of(result.usage), "activation": result.activation, "timing": timing_of(result.timing)}
    return json_response(content)


async def _scored(wanted: ScoreRequest, state: ServerState) -> "ScoreResult":
    engine, info = state.serving(), state.adapter_of(wanted.model)
    prompt = await asyncio.to_thread(_prompt, wanted, info, state)
    try:
        return await engine.score(prompt, wanted.candidates, None if info is None else info.name, wanted.end)
    except MissingInvocationError as exc:
        raise HttpError(400, str(exc), param="prompt") from exc


def _prompt(wanted: ScoreRequest, info: "AdapterInfo | None", state: ServerState) -> list[int]:
    tokenizer, untrusted = state.serving().tokenizer, not state.config.trust_special_tokens
    if isinstance(wanted.prompt, str):
        return tokenizer.encode(wanted.prompt)  # the client's own from end to end, as a completion's
    if wanted.prompt is not None:
        return wanted.prompt
    messages = state.history.restore(plain_messages(wanted.messages or []))
    return chat_ids(tokenizer, info, messages, untrusted=untrusted)
