"""A generation under way: its text grows in the background, and any thread or event loop may wait for it."""

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from alorakit.bindings.session.background import GENERATION
from alorakit.engine.errors import ClosedError

if TYPE_CHECKING:
    from alorakit.bindings.checks.watch import PartialCheck
    from alorakit.engine.request import RequestOutput, StreamChunk

Work = Callable[["Flight"], Coroutine[Any, Any, "RequestOutput"]]


class Flight:
    """One generation.

    Attributes:
        text: Text so far.
        token_ids: Ids so far.
        ended: Whether nothing more will come.
        output: The engine's output; None while it is under way, and if it was cancelled or failed.
        error: Why it failed, or None.
        cancelled: Whether :meth:`cancel` ended it.
        checks: Checks made of it while it was written.
        latest: Those of the longest beginning.
    """

    def __init__(self, work: Work) -> None:
        """Start ``work``, which is given the flight for its chunks, on the generating loop."""
        self.text, self.token_ids = "", list[int]()
        self.ended = self.cancelled = False
        self.output: RequestOutput | None = None
        self.error: BaseException | None = None
        self.checks, self.latest = list["PartialCheck"](), list["PartialCheck"]()
        self._lock = threading.Lock()
        self._waiters: list[asyncio.Future[None]] = []
        self._task: asyncio.Task[RequestOutput] | None = None
        self._pid, self._loop = os.getpid(), GENERATION.loop
        self._loop.call_soon_threadsafe(self._start, work)

    def push(self, chunk: "StreamChunk") -> None:
        """Add a piece of text."""
        with self._lock:
            self.text += chunk.text
            self.token_ids += chunk.token_ids
        self._wake()

    async def more(self, seen: int | None = None) -> None:
        """Wait for text beyond the first ``seen`` characters, or for the end; None: for the end.

        Raises:
            ClosedError: The process was forked meanwhile, and this one does not generate it.
        """
        while True:
            with self._lock:
                if self.ended or (seen is not None and len(self.text) > seen):
                    return
                if self._pid != os.getpid():
                    raise ClosedError("an output was still being written when the process was forked; ask for it again")
                waiter = asyncio.get_running_loop().create_future()
                self._waiters.append(waiter)
            await waiter

    def cancel(self) -> None:
        """Give the request up, if it has not ended."""
        with suppress(RuntimeError):  # the loop is closed: the process ends
            self._loop.call_soon_threadsafe(self._cancel)

    def _start(self, work: Work) -> None:
        self._task = self._loop.create_task(work(self))
        self._task.add_done_callback(self._land)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _land(self, task: "asyncio.Task[RequestOutput]") -> None:
        if task.cancelled():
            self.cancelled = True
        elif (error := task.exception()) is not None:
            self.error = error
        else:
            self.output = output = task.result()
            self.text, self.token_ids = output.text, list(output.token_ids)
        self.ended = True
        self._wake()

    def _wake(self) -> None:
        with self._lock:
            waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            with suppress(RuntimeError):  # its loop is closed: nobody waits any more
                waiter.get_loop().call_soon_threadsafe(_settle, waiter)


def _settle(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_result(None)
