"""What both completion endpoints read and write. Unknown fields are refused; types are taken as they are, not made."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_SAMPLES = 256


class Body(BaseModel):
    """A JSON object with these fields and no others."""

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())


Stop = Annotated[str, Field(min_length=1, max_length=1024)]
Stops = Annotated[list[Stop], Field(max_length=64, fail_fast=True)]


class StreamOptions(Body):
    """Options of a stream."""

    include_usage: bool | None = Field(None, description="Send a last chunk with the token counts.")
    include_obfuscation: Literal[False] | None = None


class Sampling(Body):
    """How to decode: OpenAI's names, and vLLM's for what OpenAI does not have."""

    model: str = Field(min_length=1, description="The base model's name, or an adapter's.")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = Field(None, ge=1, le=128, description="Number of answers to each prompt.")
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=1000, description="1 by default; 0 is greedy.")
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = Field(None, ge=0, lt=2**64)
    stop: Stop | Stops | None = None
    presence_penalty: float | None = Field(None, ge=-10, le=10)
    frequency_penalty: float | None = Field(None, ge=-10, le=10)
    user: str | None = Field(None, description="Ignored.")
    metadata: dict[str, Any] | None = Field(None, description="Ignored.")
    store: Literal[False] | None = None
    top_k: int | None = Field(None, ge=-1, description="-1 and 0 keep all tokens.")
    min_p: float | None = Field(None, ge=0, le=1)
    min_tokens: int | None = Field(None, ge=0)
    repetition_penalty: float | None = Field(None, ge=0.01, le=100)
    ignore_eos: bool | None = None
    stop_token_ids: list[Annotated[int, Field(ge=0)]] | None = Field(None, max_length=64)
    guided_json: dict[str, Any] | str | None = Field(None, description="A JSON schema that the text obeys.")
    guided_regex: str | None = Field(None, min_length=1, description="A regular expression that all of it matches.")
    guided_choice: list[str] | None = Field(None, min_length=1, description="One of these texts.")


class PromptDetails(Body):
    """Where the prompt's tokens came from."""

    cached_tokens: int = Field(description="Tokens whose keys and values were not computed for this request.")


class Usage(Body):
    """Token counts."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


FinishReason = Literal["stop", "length", "tool_calls"]
EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The answer; where `stream` is true, server-sent events of chunks that end with `[DONE]`",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}
