"""Where kernel tests run and how exact they must be: the interpreter in float32, or a GPU in every dtype."""

import pytest
import torch

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
# Relative to values of order one. Kernels round once to the dtype, the references likewise; half formats may differ
# by a rounding of the intermediate and one of the result.
TOLERANCE = {torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 3e-2}
# The interpreter's products of half formats are wrong, so these need a GPU.
DTYPES = pytest.mark.parametrize(
    "dtype", list(TOLERANCE) if GPU else [torch.float32], ids=lambda dtype: str(dtype).removeprefix("torch.")
)
ROWS = pytest.mark.parametrize("rows", [1, 3, 7, 133])
FEW_ROWS = pytest.mark.parametrize("rows", [1, 3, 7, 16, 17, 33, 64])
# Kernels that start before the one in front has ended are for Hopper and later.


def close(got: torch.Tensor, want: torch.Tensor, dtype: torch.dtype) -> None:
    torch.testing.assert_close(got.float(), want.float(), atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


def randn(*shape: int, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> torch.Tensor:
    """The same numbers on every device."""
    return (torch.randn(*shape) * scale).to(DEVICE, dtype)


def poisoned(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    """NaN everywhere: for what must not be read, or must be written whole."""
    return torch.full(shape, float("nan"), dtype=dtype, device=DEVICE)
