"""What ties sequences in the engine's thread to whoever awaits them in an event loop."""

import asyncio
from typing import Any

from alorakit.engine.request import StreamChunk
from alorakit.engine.sequence import Sequence


class Ticket:
    """The sequences of one call.

    Attributes:
        sequences: What was asked for.
        streams: Whether chunks are wanted as they come.
        event_loop: Where the caller waits.
        chunks: The chunks of a stream; the last one has a ``finish_reason``.
        done: Set when every sequence has ended.
        num_open: Sequences that have not ended; counted by the engine's thread.
    """

    def __init__(self, sequences: list[Sequence], streams: bool = False) -> None:
        """A ticket for a caller in the running event loop."""
        self.sequences, self.streams = sequences, streams
        self.event_loop = asyncio.get_running_loop()
        self.chunks: asyncio.Queue[StreamChunk] = asyncio.Queue()
        self.done: asyncio.Future[None] = self.event_loop.create_future()
        self.num_open = len(sequences)

    def deliver(self, chunk: StreamChunk | None, done: bool) -> None:
        """Hand over what a step brought; runs in the event loop."""
        if chunk is not None:
            self.chunks.put_nowait(chunk)
        if done:
            settle(self.done, None)


def settle(future: "asyncio.Future[Any]", result: Any, error: BaseException | None = None) -> None:
    """Give a future its result or error, unless whoever waits for it has cancelled it; runs in its event loop."""
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
