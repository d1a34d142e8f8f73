"""What a request body is refused for, by the field's name."""

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


_OF_ANOTHER_TYPE = {"string_type", "list_type", "dict_type", "model_attributes_type", "int_type", "none_required"}


def as_field_error(error: RequestValidationError) -> HttpError:
    """400 with the first field that is wrong: its dotted path, its value, and what it must be.

    Where a field may be of several kinds, pydantic tells of each; what was meant is the one that fits furthest.
    """
    if error.errors()[0]["loc"][0] != "body":  # a parameter of the path or the query
        name, reason = str(error.errors()[0]["loc"][-1]), error.errors()[0]["msg"]
        return HttpError(400, f"{name}: {reason}", param=name)
    paths = [(_path(found, error.body), found) for found in error.errors()]
    path, first = max(paths, key=lambda each: (each[1]["type"] == "extra_forbidden", len(each[0])))
    name = ".".join(path)[:200]
    if first["type"] == "extra_forbidden":
        message = f"{name!r} is not supported; leave it out" if name in UNSUPPORTED else f"unknown field {name!r}"
    elif first["type"] == "missing":
        message = f"field {name!r} is missing" if name else "the request has no body; send a JSON object"
    else:
        same = [found for other, found in paths if other == path]
        reasons = [found["msg"] for found in same if found["type"] not in _OF_ANOTHER_TYPE] or [f["msg"] for f in same]
        said = ", or ".join(dict.fromkeys(reason[0].lower() + reason[1:] for reason in reasons))
        message = f"{name or 'the body'}={shown(first.get('input'))}: {said}"
    return HttpError(400, message, param=name or None)


def _path(found: Any, body: Any) -> list[str]:
    """The parts of pydantic's location that are in the body; the others name branches of a union."""
    _, *loc = found["loc"]
    path: list[str] = []
    for index, part in enumerate(loc):
        is_key = isinstance(body, dict) and part in body
        is_absent = index == len(loc) - 1 and found["type"] in ("missing", "extra_forbidden") and isinstance(body, dict)
        if is_key or (isinstance(body, list) and isinstance(part, int) and part < len(body)):
            body = body[part]
        elif not is_absent:
            continue
        path.append(str(part))
    return path
