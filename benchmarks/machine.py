"""What a device can do: the speed of its memory and of its matrix products, measured."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from alorakit.kernels import ops


@dataclass(frozen=True)
class Machine:
    """What was measured of a device.

    Attributes:
        bandwidth: Bytes read and written per second.
        matrix_rate: Operations per second in matrix products, a multiply-add being two.
    """

    bandwidth: float
    matrix_rate: float

    def __str__(self) -> str:
        """For the reader."""
        return f"{self.bandwidth / 1e9:,.0f} GB/s, {self.matrix_rate / 1e9:,.0f} GFLOP/s"

    @classmethod
    def measure(cls, device: torch.device, dtype: torch.dtype) -> "Machine":
        """Measure both; a few seconds."""
        return cls(measure_bandwidth(device), measure_matrix_rate(device, dtype))


def measure_bandwidth(device: torch.device, nbytes: int | None = None) -> float:
    """Bytes per second, read and written.

    Args:
        device: On a GPU a tensor of 4 GiB is copied. On a CPU, 512 MiB are read: by a sum, and where bfloat16 weights
            can be packed by a product with one row, too; the faster one counts.
        nbytes: Another size, for tests.
    """
    if device.type != "cpu":
        source = torch.empty((nbytes or 4 << 30) // 4, dtype=torch.float32, device=device).normal_()
        dest = torch.empty_like(source)
        return 2 * source.nbytes / _median_seconds(lambda: dest.copy_(source), device)
    values = torch.ones((nbytes or 512 << 20) // 4096, 1024)
    by_sum = values.nbytes / _median_seconds(values.sum, device)
    if not ops.can_pack(device, torch.bfloat16):
        return by_sum
    packed, row = ops.pack_weight(values.bfloat16()), torch.ones(1, 1024, dtype=torch.bfloat16)
    by_product = values.nbytes / 2 / _median_seconds(lambda: ops.linear_packed(row, packed, None), device)
    return max(by_sum, by_product)


def measure_matrix_rate(device: torch.device, dtype: torch.dtype, size: int | None = None) -> float:
    """Operations per second of a square product of random numbers (equal ones draw less power, and clock higher).

    Args:
        device: A GPU multiplies matrices of 8,192, a CPU of 2,048, packed where they can be.
        dtype: Of both factors.
        size: Another size, for tests.
    """
    size = size or (2048 if device.type == "cpu" else 8192)
    a, b = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
    product: Callable[[], Tensor] = lambda: a @ b  # noqa: E731
    if ops.can_pack(device, dtype):
        packed = ops.pack_weight(b)
        product = lambda: ops.linear_packed(a, packed, None)  # noqa: E731
    return 2 * size**3 / _median_seconds(product, device)


def _median_seconds(run: Callable[[], object], device: torch.device, rounds: int = 9) -> float:
    """Median time of a call, after two that do not count."""
    times = []
    for turn in range(rounds + 2):
        _wait(device)
        start = time.perf_counter()
        run()
        _wait(device)
        if turn >= 2:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
