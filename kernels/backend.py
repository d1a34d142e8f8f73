"""Which kernels run: Triton's on CUDA, torch's elsewhere, or what the caller forces."""

import logging
import os
from functools import cache
from importlib.util import find_spec
from typing import Literal

import torch

Backend = Literal["triton", "torch"]

log = logging.getLogger("alorakit")
_forced: Backend | None = None
_logged: set[tuple[str, str]] = set()


class BackendError(RuntimeError):
    """The backend that was asked for cannot run here."""


def use_backend(name: Backend | None) -> None:
    """Force a backend for every engine made from now on; see :func:`alorakit.kernels.ops.use_backend`."""
    global _forced
    if name not in (None, "triton", "torch"):
        raise BackendError(f"backend={name!r} is not one of triton, torch, None")
    if name == "triton" and (problem := _no_triton(torch.device("cuda" if torch.cuda.is_available() else "cpu"))):
        raise BackendError(f"backend='triton' {problem}")
    _forced = name


def forced_backend() -> Backend | None:
    """What :func:`use_backend` was last told."""
    return _forced


def backend_for(device: torch.device) -> Backend:
    """The backend for tensors on ``device``; the choice is logged once per device.

    Raises:
        BackendError: Triton is forced and cannot run on this device.
    """
    problem = _no_triton(device)
    if _forced == "triton" and problem:
        raise BackendError(f"backend='triton' {problem}")
    chosen: Backend = _forced or ("triton" if device.type == "cuda" and problem is None else "torch")
    if (device.type, chosen) not in _logged:
        _logged.add((device.type, chosen))
        log.info("backend for %s: %s", device.type, chosen)
    return chosen


def interpreted() -> bool:
    """Whether Triton's kernels are run by its interpreter, on the CPU."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "on", "true", "yes")


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


def _no_triton(device: torch.device) -> str | None:
    """Why Triton's kernels cannot run on ``device``; None if they can."""
    if not _has_triton():
        return "needs the package triton, which is not installed; use backend='torch'"
    if device.type == "cuda":
        return (
            None
            if torch.cuda.get_device_capability(device) >= (8, 0)
            else (f"needs compute capability 8.0; {torch.cuda.get_device_name(device)} has less; use backend='torch'")
        )
    if device.type == "cpu" and interpreted():
        return None
    return (
        f"cannot run on {device.type}; use a CUDA device, backend='torch', or set TRITON_INTERPRET=1 before Python "
        "starts to have its interpreter run on the CPU"
    )
