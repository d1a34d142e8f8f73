"""The two event loops of the process: one runs what synchronous methods ask for, one generates.

They are apart so that a requirement's function, which runs on the first, may talk to a model itself: what it waits for
is done by the second.
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
        self._thread: threading.Thread | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop, which runs."""
        with self._lock:
            if self._loop is None or self._pid != os.getpid():
                self._pid, self._loop = os.getpid(), asyncio.new_event_loop()
                self._thread = threading.Thread(target=_serve, args=(self._loop,), name=self._name, daemon=True)
                self._thread.start()
            return self._loop

    def is_current(self) -> bool:
        """Whether the caller is in the loop's thread."""
        return threading.current_thread() is self._thread


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    while True:
        # What ends a process ends a task of the loop here (a function that a requirement calls may exit), not the loop:
        # whoever waits for the task is given it.
        with suppress(KeyboardInterrupt, SystemExit):
            loop.run_forever()
            return


CALLS = Background("alorakit-session")
GENERATION = Background("alorakit-generate")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end for a synchronous caller, who may be inside an event loop (as in Jupyter).

    Args:
        coroutine: What to run; it is cancelled if the caller is interrupted.

    Returns:
        Its result; what it raises is raised here.
    """
    if CALLS.is_current():  # a function that a session runs calls a session: its loop waits for it
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(copy_context().run, asyncio.run, coroutine).result()
    future = asyncio.run_coroutine_threadsafe(coroutine, CALLS.loop)
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise
