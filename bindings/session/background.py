"""Event loops: each synchronous call has one of its own, and one in the background generates for all.

A requirement's function runs on the loop of the call, in the caller's thread, and may talk to a model itself, also in
threads of its own: what it waits for is done by the loop in the background.
"""

import asyncio
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from typing import Any, TypeVar

T = TypeVar("T")


class Background:
    """An event loop in a daemon thread, started when first asked for, and again in a forked process."""

    def __init__(self, name: str) -> None:
        """A loop that is not running yet; ``name`` is its thread's."""
        self._name, self._pid = name, 0
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop, which runs."""
        with self._lock:
            if self._loop is None or self._pid != os.getpid():
                self._pid, self._loop = os.getpid(), asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name=self._name, daemon=True).start()
            return self._loop


GENERATION = Background("alorakit-generate")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end for a synchronous caller, who may be inside an event loop (as in Jupyter).

    Args:
        coroutine: What to run; it is cancelled if the caller is interrupted.

    Returns:
        Its result; what it raises is raised here.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return _run_here(coroutine)
    started: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[T] | None]] = []

    async def main() -> T:
        started.append((asyncio.get_running_loop(), asyncio.current_task()))
        return await coroutine

    with ThreadPoolExecutor(1) as pool:  # this thread's loop waits, and cannot run another
        future = pool.submit(copy_context().run, _run_here, main())
        try:
            return future.result()
        except BaseException:
            for loop, task in started:
                with suppress(RuntimeError):  # the loop is closed: the coroutine has ended by itself
                    loop.call_soon_threadsafe(task.cancel)  # type: ignore[union-attr]  # it runs in one
            raise


def _run_here(coroutine: Coroutine[Any, Any, T]) -> T:
    """As ``asyncio.run``, which would make the thread forget the event loop that somebody set for it."""
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        return runner.run(coroutine)
