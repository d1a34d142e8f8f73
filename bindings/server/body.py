"""Request bodies: read within a time and a size, and refused unless they are plain JSON."""

import asyncio
import json
import math
from collections import Counter
from typing import Any, NoReturn

from starlette.datastructures import Headers
from starlette.types import Message, Receive

from alorakit.bindings.server.connection import ClientGone
from alorakit.bindings.server.errors import HttpError

MAX_DEPTH = 64
MAX_KEYS = 4096
# Brackets and braces, those inside texts too: a list or an object costs far more to read than its two bytes.
MAX_BRACKETS = 1 << 18


async def read_body(receive: Receive, headers: Headers, max_bytes: int, timeout_s: float) -> bytes:
    """All of a request's body, chunked or not.

    Raises:
        HttpError: 413: it is too long, which is known before it is read where its length is announced; 408: it did
            not come in time.
        ClientGone: The client went away meanwhile.
    """
    announced = headers.get("content-length", "0")
    if len(announced) > 18 or (announced.isdecimal() and int(announced) > max_bytes):
        raise _too_long(f"{announced:.20}", max_bytes)
    body = bytearray()
    try:
        async with asyncio.timeout(timeout_s):
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                body += message.get("body", b"")
                if len(body) > max_bytes:
                    raise _too_long(f"over {len(body)}", max_bytes)
                more = message.get("more_body", False)
    except TimeoutError:
        # The rest of the body is still to come: nothing else can be read from this connection.
        raise HttpError(
            408,
            f"the request's body did not come within {timeout_s:g} s (read_timeout_s); send it faster",
            headers={"connection": "close"},
        ) from None
    return bytes(body)


def _too_long(size: str, limit: int) -> HttpError:
    return HttpError(413, f"the body has {size} bytes, but at most {limit} are read (max_body_bytes); send less")


def check_json(body: bytes, headers: Headers) -> None:
    """See that a body is JSON that means one thing to everybody.

    Raises:
        HttpError: 415: it is not announced as plain JSON; 400: it is no UTF-8 or no JSON, holds NaN or numbers out of
            range, the same key twice, half a character, too many keys or brackets, or is nested too deeply.
    """
    if (coding := headers.get("content-encoding", "identity").strip().lower()) != "identity":
        raise HttpError(415, f"content-encoding {coding!r:.100} is not read; send the body as it is")
    kind, *options = (part.strip().lower() for part in headers.get("content-type", "").split(";"))
    if kind != "application/json" or any(o.startswith("charset=") and o[8:].strip('"') != "utf-8" for o in options):
        found = headers.get("content-type", "none")
        raise HttpError(415, f"content-type {found!r:.100} is not read; send application/json in UTF-8")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise HttpError(400, f"the body is not valid UTF-8 at byte {error.start}; encode it as UTF-8") from None
    num_brackets = text.count("[") + text.count("{")
    if num_brackets > MAX_BRACKETS:
        raise HttpError(400, f"the body has {num_brackets} brackets and braces, the limit is {MAX_BRACKETS}; send less")
    try:
        parsed = json.loads(text, parse_constant=_constant, parse_float=_float, object_pairs_hook=_object)
        if "\\ud" in text.lower():
            json.dumps(parsed, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise HttpError(400, "the body holds half of a surrogate pair, which is no text; leave it out") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise HttpError(400, f"the body is not valid JSON at {where}: {error.msg}") from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:  # a constant, a number, a key: see below
        raise HttpError(400, f"the body is not valid JSON: {error}") from None
    if num_brackets > MAX_DEPTH:
        _check_depth(parsed)


def parse_inner(text: str) -> Any:
    """What a JSON text inside a body says.

    Raises:
        ValueError: It is no JSON, or nested more than MAX_DEPTH levels deep.
    """
    try:
        parsed = json.loads(text)
        _check_depth(parsed)
    except (HttpError, RecursionError) as error:
        raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep") from error
    return parsed


def _check_depth(parsed: Any) -> None:
    level, depth = [parsed], 0
    while level := [node for node in level if isinstance(node, dict | list)]:
        depth += 1
        if depth > MAX_DEPTH:
            raise _too_deep()
        level = [item for node in level for item in (node.values() if isinstance(node, dict) else node)]


def _too_deep() -> HttpError:
    return HttpError(400, f"the body is nested more than {MAX_DEPTH} levels deep; flatten it")


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text:.40} is out of range")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        key = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"key {key!r:.100} comes twice in one object")
    if len(found) > MAX_KEYS:
        raise ValueError(f"an object has {len(found)} keys, the limit is {MAX_KEYS}")
    return found


def replay(body: bytes, receive: Receive) -> Receive:
    """A ``receive`` that gives the body that was read, then whatever comes after it."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return pending.pop() if pending else await receive()

    return again
