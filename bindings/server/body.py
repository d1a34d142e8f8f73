"""Request bodies: read within a time and a size, and refused unless they are plain JSON."""

import asyncio
import json
import math
from typing import Any, NoReturn

from starlette.datastructures import Headers
from starlette.types import Message, Receive

from alorakit.bindings.server.connection import ClientGone
from alorakit.bindings.server.errors import HttpError

MAX_DEPTH = 64


async def read_body(receive: Receive, headers: Headers, max_bytes: int, timeout_s: float) -> bytes:
    """All of a request's body, chunked or not.

    Raises:
        HttpError: 413: it is too long, which is known before it is read where its length is announced; 408: it did
            not come in time.
        ClientGone: The client went away meanwhile.
    """
    announced = headers.get("content-length", "0")
    if len(announced) > 18 or (announced.isdigit() and int(announced) > max_bytes):
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
        HttpError: 415: it is not announced as JSON; 400: it is no UTF-8 or no JSON, holds NaN or numbers out of range,
            the same key twice, half a character, or is nested too deeply.
    """
    kind, *options = (part.strip().lower() for part in headers.get("content-type", "").split(";"))
    if kind != "application/json" or any(o.startswith("charset=") and o[8:].strip('"') != "utf-8" for o in options):
        found = headers.get("content-type", "none")
        raise HttpError(415, f"content-type {found!r:.100} is not read; send application/json in UTF-8")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise HttpError(400, f"the body is not valid UTF-8 at byte {error.start}; encode it as UTF-8") from None
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
    if text.count("[") + text.count("{") > MAX_DEPTH:
        _check_depth(parsed)


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
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {next(key for key in keys if keys.count(key) > 1)!r:.100} comes twice in one object")
    return found


def replay(body: bytes, receive: Receive) -> Receive:
    """A ``receive`` that gives the body that was read, then whatever comes after it."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return pending.pop() if pending else await receive()

    return again
