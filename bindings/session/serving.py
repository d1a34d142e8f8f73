"""One AsyncEngine for each engine, whoever uses it."""

import asyncio
import os
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from alorakit.engine.async_engine import AsyncEngine
    from alorakit.engine.engine import Engine


@dataclass
class _Served:
    running: "AsyncEngine"
    pid: int
    users: set[object] = field(default_factory=set)


_SERVED: "WeakKeyDictionary[Engine, _Served]" = WeakKeyDictionary()
_LOCK = threading.Lock()


def lease(engine: "Engine", user: object) -> "AsyncEngine":
    """The AsyncEngine that steps an engine, made if there is none in this process.

    Args:
        engine: The engine; by itself it may be used whenever nothing runs on the AsyncEngine.
        user: Who asks, an object of its own (an ``id`` may be had again by whoever comes next); see :func:`give_back`.

    Raises:
        AlorakitError: The engine is closed, or is no engine.
    """
    from alorakit.engine.async_engine import AsyncEngine  # torch only now: importing the session stays cheap

    with _LOCK:
        served = _SERVED.get(engine)
        if served is None or served.pid != os.getpid():
            if served is not None:
                _after_fork(engine)
            made = _Served(AsyncEngine(engine), os.getpid(), served.users if served else set())
            served = _SERVED[engine] = made
        served.users.add(user)
        return served.running


def give_back(engine: "Engine", user: object, wait: bool = False, close: bool = False) -> None:
    """The user is done; after the last one the engine is stepped no more.

    Args:
        engine: The engine, which stays open.
        user: As for :func:`lease`.
        wait: Return when the stepping thread has ended.
        close: The engine will be closed: whoever else uses it is done too.
    """
    with _LOCK:
        served = _SERVED.get(engine)
        if served is None:
            return
        served.users.discard(user)
        if served.users and not close:
            return
        del _SERVED[engine]
        if served.pid != os.getpid():
            return
        served.running.detach(wait=False)  # before anybody can lease it again
    if wait:
        served.running.detach()


def give_back_soon(loop: asyncio.AbstractEventLoop, engine: "Engine", user: object) -> None:
    """As :func:`give_back`, by a loop's thread: for the garbage collector, which may run where a lock is held."""
    with suppress(RuntimeError):  # the loop is closed: the process ends
        loop.call_soon_threadsafe(give_back, engine, user)


def _after_fork(engine: "Engine") -> None:
    """Make the copy in a forked process usable: the parent's thread and its callers are not here."""
    import torch

    engine.loop.stepper = None
    torch.set_num_threads(1)  # OpenMP's threads are not here either, and it would wait for them
    for sequence in [*engine.scheduler.running, *engine.scheduler.waiting]:
        engine.scheduler.end(sequence, "abort")
