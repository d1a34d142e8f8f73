"""Which device, dtype and how much memory: decided here, once."""

import ctypes
import os
import platform
from pathlib import Path

import torch

from alorakit.engine.errors import ConfigError
from alorakit.kernels import ops

# mallopt's parameters (malloc.h), and what each is set to in bytes: more than the tensors of a prefill step take.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
KEPT_BYTES = 1 << 28


def pick_device(name: str) -> torch.device:
    """The device for ``"auto"``, ``"cpu"``, ``"cuda[:n]"`` or ``"mps"``.

    Raises:
        ConfigError: The device is not there.
    """
    if name == "auto":
        kind = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(kind)
    try:
        device = torch.device(name)
    except RuntimeError as exc:
        raise ConfigError(f"device={name!r} is not one of auto, cpu, cuda, cuda:N, mps") from exc
    if device.type not in ("cpu", "cuda", "mps"):
        raise ConfigError(f"device={name!r} is not one of auto, cpu, cuda, cuda:N, mps")
    missing = (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()) or (
        device.type == "mps" and not torch.backends.mps.is_available()
    )
    if missing or (device.type == "cpu" and device.index):
        raise ConfigError(f"device={name!r} is not available on this machine; use device='auto' or 'cpu'")
    return device


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The compute dtype: ``"auto"`` is bfloat16 where the hardware multiplies it, else float32.

    Raises:
        ConfigError: Another name.
    """
    if name == "auto":
        onednn = torch.backends.mkldnn.is_available()
        fast = device.type != "cpu" or (onednn and torch.ops.mkldnn._is_mkldnn_bf16_supported())
        return torch.bfloat16 if fast else torch.float32
    dtypes = {"bfloat16": torch.bfloat16, "float32": torch.float32}
    if name not in dtypes:
        raise ConfigError(f"dtype={name!r} is not one of auto, bfloat16, float32")
    return dtypes[name]


def pick_backend(device: torch.device) -> str:
    """``"triton"`` or ``"torch"``, as ``ops.backend_for`` says.

    Raises:
        ConfigError: Triton is forced and cannot run on this device.
    """
    try:
        return ops.backend_for(device)
    except ops.BackendError as exc:
        raise ConfigError(str(exc)) from exc


def keep_freed_memory() -> bool:
    """Let glibc keep up to KEPT_BYTES that are freed, instead of giving every large tensor back to the system.

    A prefill step frees and allocates megabytes at every op, and each page that comes back has to be cleared first: a
    prefill of 2,048 tokens of a 135M model took 180,000 page faults and 1.36 s, and takes 1.07 s so. It holds
    for the whole process. Where the environment sets one of glibc's thresholds, nothing is changed.

    Returns:
        Whether it was done: there is no such setting in other C libraries.
    """
    chosen = {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"} & os.environ.keys()
    if chosen or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all(mallopt(parameter, KEPT_BYTES) == 1 for parameter in (_MMAP_THRESHOLD, _TRIM_THRESHOLD))


def free_memory(device: torch.device) -> int:
    """Bytes that can still be allocated on ``device``."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return _available_ram()


def _available_ram() -> int:
    try:
        with Path("/proc/meminfo").open(encoding="ascii") as handle:
            lines = dict(line.split(":", 1) for line in handle)
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
