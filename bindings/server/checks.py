"""/v1/checks: checks of a chat, all of them in one batch, so that what they share is computed once."""

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from alorakit.bindings.checks.choose import choose_adapter
from alorakit.bindings.checks.question import Question, question
from alorakit.bindings.server.connection import while_connected
from alorakit.bindings.server.errors import HttpError, json_response
from alorakit.bindings.server.openapi import ERRORS
from alorakit.bindings.server.prompts import plain_messages
from alorakit.bindings.server.schemas_checks import Check, ChecksRequest, ChecksResponse
from alorakit.bindings.server.state import ServerState, state_of
from alorakit.engine.errors import AdapterNotFoundError, CheckError
from alorakit.engine.request import Timing, Usage

if TYPE_CHECKING:
    from alorakit.engine.mixed import Answer
    from alorakit.engine.tokenizer import Tokenizer

router = APIRouter()

# An adapter may be replaced between the making of a question and its asking; that often in a row it is not.
_ATTEMPTS = 3


@router.post("/v1/checks", responses={200: {"model": ChecksResponse}, **ERRORS}, tags=["checks"])
async def check(wanted: ChecksRequest, request: Request, state: Annotated[ServerState, Depends(state_of)]) -> Response:
    """Check a chat: each check's answer with its probabilities, and which tokens were reused or computed."""
    started = time.perf_counter()
    access = request.scope["alorakit.access"]
    base = access.model = state.model_id
    asked, answers = await while_connected(request.receive, _ask(wanted, state), state.config.request_timeout_s)
    access.first()
    found = await asyncio.to_thread(_described, wanted, asked, answers, state.serving().tokenizer)
    for answer in answers:
        access.count(answer.usage)
    if state.config.log_prompts:
        access.texts = {"messages": plain_messages(wanted.messages), "answers": [each["answer"] for each in found]}
    usage = usage_of(access.usage)
    timing = {"total_ms": _ms(time.perf_counter() - started)}
    content = {"object": "checks", "base": base, "created": int(time.time()), "checks": found}
    return json_response(content | {"usage": usage, "timing": timing})


async def _ask(wanted: ChecksRequest, state: ServerState) -> tuple[list[Question], "list[Answer]"]:
    """The questions and the engine's answers to them; nothing is asked unless everything can be."""
    engine = state.serving()
    for attempt in range(_ATTEMPTS):
        asked = await asyncio.to_thread(_questions, wanted, state)
        try:
            return asked, await engine.batch([each.request for each in asked])
        except AdapterNotFoundError:
            if attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable")


def _questions(wanted: ChecksRequest, state: ServerState) -> list[Question]:
    messages = state.history.restore(plain_messages(wanted.messages))
    return [_question(index, each, messages, state) for index, each in enumerate(wanted.checks)]


def _question(index: int, wanted: Check, messages: Sequence[dict[str, Any]], state: ServerState) -> Question:
    engine, place = state.serving(), f"checks.{index}"
    if not engine.adapters:
        raise HttpError(400, "no adapter is loaded that could check; load one with POST /v1/adapters", place)
    try:
        info = choose_adapter(engine.adapters, wanted.adapter, requirement=wanted.requirement)
    except AdapterNotFoundError as exc:
        raise HttpError(404, str(exc), f"{place}.adapter", "adapter_not_found") from exc
    except CheckError as exc:
        reason = str(exc).split(";")[0]
        raise HttpError(
            400, f"{place} names no adapter, and none can be chosen: {reason}; set 'adapter'", f"{place}.adapter"
        ) from exc
    try:
        return question(
            engine.tokenizer,
            info,
            messages,
            wanted.requirement,
            decide=wanted.requirement is not None,
            untrusted=not state.config.trust_special_tokens,
        )
    except CheckError as exc:
        raise HttpError(400, f"{place}: {exc}", f"{place}.requirement") from exc


def _described(
    wanted: ChecksRequest, asked: Sequence[Question], answers: "Sequence[Answer]", tokenizer: "Tokenizer"
) -> list[dict[str, Any]]:
    texts: dict[int, str] = {}
    found = []
    for check, each, answer in zip(wanted.checks, asked, answers, strict=True):
        verdict = each.verdict(answer)
        described: dict[str, Any] = {
            "name": check.name or each.info.name,
            "adapter": each.info.name,
            "kind": "lora" if each.info.invocation_tokens is None else "alora",
            "label": verdict.label,
            "answer": verdict.answer,
            "passed": verdict.passed,
            "score": verdict.score,
            "probabilities": verdict.probabilities,
            "reason": verdict.reason,
            "usage": usage_of(verdict.usage),
            "activation": answer.activation,
            "timing": timing_of(verdict.timing),
        }
        if wanted.tokens:
            prompt = each.request.prompt
            assert isinstance(prompt, list), "a question's prompt is ids"
            described["tokens"] = [_token(tokenizer, token, texts) for token in prompt]
        found.append(described)
    return found


def _token(tokenizer: "Tokenizer", token: int, texts: dict[int, str]) -> dict[str, Any]:
    if token not in texts:
        texts[token] = tokenizer.decode([token], skip_special_tokens=False)
    return {"id": token, "text": texts[token]}


def usage_of(usage: Usage | None) -> dict[str, int]:
    """Token counts as JSON."""
    return vars(usage or Usage(0, 0, 0)).copy()


def timing_of(timing: Timing) -> dict[str, float]:
    """Times as JSON, in milliseconds."""
    return {"queue_ms": _ms(timing.queue_s), "first_ms": _ms(timing.ttft_s), "total_ms": _ms(timing.total_s)}


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 3)
