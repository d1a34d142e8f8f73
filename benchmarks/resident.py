"""How much memory a part of a process's life takes at most."""

import ctypes
import gc
import platform
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

INTERVAL_S = 0.01
_CLEAR_PEAK = "5"  # proc(5), clear_refs: the peak starts again from what is resident now


def settle() -> int:
    """Give back what is free, so that later growth cannot hide in it; the resident bytes then."""
    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
    return resident()


def resident() -> int:
    """Resident bytes of this process."""
    return int(psutil.Process().memory_info().rss)


class PeakMemory:
    """Watches the resident bytes from a thread, and reads the kernel's own peak where it can be set back."""

    def __init__(self) -> None:
        self._lock, self._done, self._highest = threading.Lock(), threading.Event(), 0
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        """Begin."""
        self.take()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        """End."""
        self._done.set()
        self._thread.join()

    def take(self) -> int:
        """The most bytes that were resident since the last call, or since the beginning."""
        with self._lock:
            highest = max(self._highest, self._kernels_peak(), resident())
            self._highest = 0
            self._can_reset = _reset_kernels_peak()
        return highest

    def _watch(self) -> None:
        while not self._done.wait(INTERVAL_S):
            with self._lock:
                self._highest = max(self._highest, resident())

    _can_reset = False

    def _kernels_peak(self) -> int:
        if not self._can_reset:
            return 0
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def _reset_kernels_peak() -> bool:
    """Whether the kernel allows it: it may forbid writing, and other systems have no such file."""
    try:
        Path("/proc/self/clear_refs").write_text(_CLEAR_PEAK, encoding="ascii")
    except OSError:
        return False
    return True
