"""What a request body is refused for, by the field's name."""

from collections.abc import Sequence
from typing import Any

from fastapi.exceptions import RequestValidationError

from alorakit.bindings.server.errors import HttpError
from alorakit.engine.errors import shown

# Fields of OpenAI's interface that this server knows of and does not offer.
UNSUPPORTED = {
    "audio",
    "best_of",
    "function_call",
    "functions",
    "logit_bias",
    "modalities",
    "moderation",
    "prediction",
    "prompt_cache_key",
    "prompt_cache_retention",
    "reasoning_effort",
    "safety_identifier",
    "service_tier",
    "suffix",
    "verbosity",
    "web_search_options",
}


def as_field_error(error: RequestValidationError) -> HttpError:
    """400 with the first field that is wrong: its dotted path, its value, and what it must be."""
    first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    where, *loc = first["loc"]
    path = _path(loc, error.body) if where == "body" else [str(part) for part in loc]
    name = ".".join(path)
    if first["type"] == "extra_forbidden":
        known = path[-1] in UNSUPPORTED and len(path) == 1
        message = f"{name!r:.200} is not supported; leave it out" if known else f"unknown field {name!r:.200}"
    elif first["type"] == "missing":
        message = f"field {name!r:.200} is missing" if name else "the request has no body; send a JSON object"
    else:
        reason = first["msg"][0].lower() + first["msg"][1:]
        message = f"{name or 'the body'}={shown(first.get('input'))}: {reason}"
    return HttpError(400, message, param=name[:200] or None)


def _path(loc: Sequence[int | str], body: Any) -> list[str]:
    """The parts of pydantic's location that are in the body; the others name branches of a union."""
    path: list[str] = []
    for index, part in enumerate(loc):
        is_key = isinstance(body, dict) and part in body
        if is_key or (isinstance(body, list) and isinstance(part, int) and part < len(body)):
            body = body[part]
            path.append(str(part))
        elif isinstance(body, dict) and index == len(loc) - 1:
            path.append(str(part))
    return path
