"""A request's fields as the engine's sampling parameters."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from alorakit.bindings.server.config import ServerConfig
from alorakit.bindings.server.errors import HttpError
from alorakit.bindings.server.schemas import Sampling
from alorakit.engine.errors import RequestError
from alorakit.engine.request import SamplingParams

if TYPE_CHECKING:
    from alorakit.engine.async_engine import AsyncEngine

_SAME_NAME = (
    "top_p",
    "seed",
    "n",
    "stop",
    "presence_penalty",
    "frequency_penalty",
    "min_p",
    "min_tokens",
    "repetition_penalty",
    "ignore_eos",
    "stop_token_ids",
)
Structured = dict[str, Any] | str | list[str]


def sampling_params(body: Sampling, max_tokens: int, structured: Structured | None, **more: Any) -> SamplingParams:
    """Sampling parameters; what the request leaves out is OpenAI's default, so the temperature is 1.

    Args:
        body: The request.
        max_tokens: See :func:`token_limit`.
        structured: See :func:`structured_of`.
        more: Further fields.

    Raises:
        HttpError: 400: a value is out of range, or two contradict each other.
    """
    fields = {name: value for name in _SAME_NAME if (value := getattr(body, name)) is not None}
    fields["temperature"] = 1.0 if body.temperature is None else body.temperature
    fields["top_k"] = max(0, body.top_k or 0)
    try:
        return SamplingParams(max_tokens=max_tokens, structured=structured, **fields, **more)
    except RequestError as error:
        message = str(error)
        param = message.split("=", 1)[0]
        raise HttpError(400, message, param=param if param in type(body).model_fields else None) from error


def token_limit(config: ServerConfig, engine: "AsyncEngine", asked: int | None, name: str, default: int | None) -> int:
    """How many tokens an answer may have.

    Args:
        config: The server's settings.
        engine: What answers; no answer is longer than what its model's length leaves.
        asked: What the request says.
        name: The field that says it.
        default: Where neither the request nor the settings say anything; None: as many as fit.

    Raises:
        HttpError: 400: more than the server allows.
    """
    cap = config.max_new_tokens
    if asked is not None:
        if cap is not None and asked > cap:
            raise HttpError(
                400, f"{name}={asked} is above {cap}, the most this server decodes (max_new_tokens); lower it", name
            )
        return asked
    longest = engine.config.max_model_len or engine.model_config.max_position_embeddings
    return min(config.default_max_tokens or default or longest, cap or longest)


def structured_of(body: Sampling, response_format: Structured | None = None) -> Structured | None:
    """What the text must be: the one of the fields for it that is given.

    Raises:
        HttpError: 400: several are given, or a schema that is no JSON object.
    """
    given: Mapping[str, Structured | None] = {
        "response_format": response_format,
        "guided_json": _schema(body.guided_json),
        "guided_regex": body.guided_regex,
        "guided_choice": body.guided_choice,
    }
    found = {name: value for name, value in given.items() if value is not None}
    if len(found) > 1:
        raise HttpError(400, f"{' and '.join(found)} cannot both hold; give one", param=list(found)[-1])
    return next(iter(found.values()), None)


def _schema(value: dict[str, Any] | str | None) -> dict[str, Any] | None:
    if not isinstance(value, str):
        return value
    try:
        schema = json.loads(value)
    except ValueError:
        schema = None
    if not isinstance(schema, dict):
        raise HttpError(400, f"guided_json={value[:80]!r} is no JSON object; give a JSON schema", param="guided_json")
    return schema
