"""A client's connection while it waits: work stops when the client goes away, or when its time is over."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

from alorakit.bindings.server.errors import HttpError

T = TypeVar("T")


class ClientGone(Exception):
    """Nobody waits for the answer any more; not an AlorakitError, since there is nobody to tell."""


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T], limit_s: float) -> T:
    """What ``work`` returns; it is cancelled when the client goes away or the time is over.

    Args:
        receive: The request's, its body read already.
        work: What is done for the client.
        limit_s: Seconds that it may take.

    Raises:
        ClientGone: The client went away.
        HttpError: 504: the time is over.
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(receive))
    try:
        done, _ = await asyncio.wait({task, gone}, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        if task in done:
            return task.result()
        if gone in done:
            raise ClientGone
        raise HttpError(
            504,
            f"the request took longer than {limit_s:g} s (request_timeout_s) and was given up; ask for fewer tokens, "
            "or try again later",
        )
    finally:
        for each in (task, gone):
            each.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
