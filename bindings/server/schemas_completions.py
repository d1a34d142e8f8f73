"""Requests and answers of /v1/completions."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from alorakit.bindings.server.schemas import MAX_SAMPLES, Body, FinishReason, Sampling, Usage

Ids = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, fail_fast=True)]
Texts = Annotated[list[str], Field(min_length=1, max_length=MAX_SAMPLES, fail_fast=True)]
ManyIds = Annotated[list[Ids], Field(min_length=1, max_length=MAX_SAMPLES, fail_fast=True)]


def _kind(value: Any) -> str:
    """Which kind of prompt its first item says it is: a long list is read once, not once for each kind."""
    first = value[0] if isinstance(value, list) and value else None
    if isinstance(value, list):
        return {int: "ids", list: "many ids"}.get(type(first), "texts")
    return "text"


Prompt = Annotated[
    Annotated[str, Tag("text")]
    | Annotated[Texts, Tag("texts")]
    | Annotated[Ids, Tag("ids")]
    | Annotated[ManyIds, Tag("many ids")],
    Discriminator(_kind),
]


class CompletionRequest(Sampling):
    """Texts, or lists of token ids, to go on with."""

    prompt: Prompt
    logprobs: int | None = Field(None, ge=0, le=20, description="Report so many of the most likely tokens.")
    echo: bool | None = Field(None, description="Put the prompt before the answer.")


class CompletionLogprobs(Body):
    """Log-probabilities, token by token; null for a prompt's first token."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(Body):
    """One answer; ``index`` counts through the prompts, ``n`` for each."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason


class Completion(Body):
    """Answers to prompts."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: None
    choices: list[CompletionChoice]
    usage: Usage
