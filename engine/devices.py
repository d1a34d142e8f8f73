"""Which device, dtype and how much memory: decided here, once."""

import os
from pathlib import Path

import torch

from alorakit.engine.errors import ConfigError
from alorakit.kernels import ops


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
