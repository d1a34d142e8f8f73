"""Ctrl-C while training: the run stops between two steps and keeps what it had reached."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

Handler = Callable[[int, FrameType | None], Any] | int | signal.Handlers


class Interrupt:
    """Whether somebody asked the run to stop.

    Attributes:
        asked: Set by the first SIGINT (Ctrl-C) or SIGTERM; one more of either ends the process as usual.
    """

    def __init__(self) -> None:
        self.asked = False


@contextmanager
def watched() -> Iterator[Interrupt]:
    """Catch the signals while the block runs, in the main thread, unless somebody else handles them already."""
    interrupt = Interrupt()
    usual: dict[int, Handler] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    here = threading.current_thread() is threading.main_thread()
    caught = [number for number, handler in usual.items() if here and signal.getsignal(number) is handler]

    def restore() -> None:
        for number in caught:
            signal.signal(number, usual[number])

    def ask(number: int, frame: FrameType | None) -> None:
        interrupt.asked = True
        restore()

    for number in caught:
        signal.signal(number, ask)
    try:
        yield interrupt
    finally:
        restore()
