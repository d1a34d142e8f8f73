"""Writing one answer: whole, piece by piece, or watched by checks."""

import asyncio
from typing import TYPE_CHECKING

from alorakit.bindings.session.flight import Flight
from alorakit.bindings.session.options import Options
from alorakit.bindings.session.watching import Watch
from alorakit.engine.errors import ClosedError

if TYPE_CHECKING:
    from alorakit.engine.async_engine import AsyncEngine
    from alorakit.engine.request import RequestOutput, SamplingParams


async def write(
    running: "AsyncEngine",
    ids: list[int],
    params: "SamplingParams",
    options: Options,
    watch: Watch | None,
    flight: Flight,
) -> "RequestOutput":
    """Generate one answer.

    Args:
        running: What generates it.
        ids: The chat.
        params: How.
        options: Whether it is streamed, and how long to wait for a piece.
        watch: What checks it meanwhile, or None.
        flight: Told every piece, where it comes in pieces, and every check.

    Raises:
        ClosedError: The backend was closed meanwhile.
        TimeoutError: A piece took too long.
    """
    from alorakit.engine.mixed import GenerateRequest

    if watch is not None:
        return await watch.read(running, running.stream(ids, params), flight)
    output: RequestOutput | None = None
    if options.stream:
        stream = running.stream(ids, params)
        try:
            while output is None:
                async with asyncio.timeout(options.stream_timeout):
                    chunk = await anext(stream)
                flight.push(chunk)
                output = chunk.output
        finally:
            await stream.aclose()
    else:
        [answer] = await running.batch([GenerateRequest(ids, params)])
        assert not isinstance(answer, list)
        output = answer
    return alive(output)


def alive(output: "RequestOutput") -> "RequestOutput":
    """An output that the backend was not closed over.

    Raises:
        ClosedError: It was.
    """
    if output.finish_reason == "abort":
        raise ClosedError("the backend was closed while it answered; make another EngineBackend and ask again")
    return output
