"""Which implementation an op runs: Triton on CUDA, torch elsewhere, unless one is forced."""

import os
from functools import cache
from importlib.util import find_spec
from typing import Literal

import torch

Backend = Literal["triton", "torch"]
_forced: Backend | None = None


class BackendError(RuntimeError):
    """The forced backend cannot run here."""


def use_backend(name: Backend | None) -> None:
    """Force every op to one backend; None restores the default.

    Raises:
        BackendError: Triton is not installed.
    """
    global _forced
    if name == "triton" and not _has_triton():
        raise BackendError("use_backend('triton'): triton is not installed; use 'torch'")
    _forced = name


def backend_for(device: torch.device) -> Backend:
    """The backend of ops on ``device``.

    Raises:
        BackendError: Triton is forced, yet it cannot run on this device.
    """
    if _forced is None:
        return "triton" if device.type == "cuda" and _has_triton() else "torch"
    if _forced == "triton" and device.type != "cuda":
        interpreted = device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"
        if not interpreted:
            raise BackendError(f"triton does not run on {device.type}; TRITON_INTERPRET=1 interprets it on a CPU")
    return _forced


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None
