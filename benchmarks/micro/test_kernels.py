"""What a layer of SmolLM2-135M calls on the CPU, on its shapes; a group's first line is what the others add to."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from alorakit.engine.devices import pick_dtype
from alorakit.kernels import ops
from alorakit.kernels.lora_stack import LoraStack

HIDDEN, WIDTHS, INTERMEDIATE, RANK, SLOTS = 576, (576, 192, 192), 1536, 32, 8
CPU = torch.device("cpu")
DTYPE = pick_dtype("auto", CPU)
ROWS = (1, 23, 512)
# Adapted rows of a check's 23, and 8 checks' together.
ADAPTED = {"3 rows of 23": [(20, 23, 0)], "8 adapters, 3 rows each": [(23 * i + 20, 23 * i + 23, i) for i in range(8)]}


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """The same numbers every time, and no gradients."""
    torch.manual_seed(0)
    with torch.inference_mode():
        yield


def rows(num: int, width: int = HIDDEN) -> Tensor:
    """Random activations [num, width]."""
    return torch.randn(num, width, dtype=DTYPE)


@pytest.mark.parametrize("num", ROWS)
def test_linear(benchmark: Any, num: int) -> None:
    """The fused q, k, v product without an adapter."""
    benchmark.group = f"q, k, v of {num} rows"
    x, weight = rows(num), rows(sum(WIDTHS))
    if ops.can_pack(CPU, DTYPE):
        packed = ops.pack_weight(weight)
        benchmark(ops.linear_packed, x, packed, None)
    else:
        benchmark(ops.linear_wide, x, weight, None)


@pytest.mark.parametrize("what", ADAPTED)
def test_lora_delta(benchmark: Any, what: str) -> None:
    """What the adapters of a batch of checks add to the q, k, v product."""
    benchmark.group = "low-rank delta on q, k, v"
    stack = LoraStack.zeros(SLOTS, HIDDEN, WIDTHS, (0, 1, 2), RANK, ops.lora_dtypes(CPU, DTYPE, HIDDEN), CPU)
    segments = ADAPTED[what]
    for slot in range(SLOTS):
        for part, width in enumerate(WIDTHS):
            stack.write(slot, part, torch.randn(RANK, HIDDEN), torch.randn(width, RANK))
    windows = ops.lora_windows(segments, stack.slot_bytes, CPU)
    num = segments[-1][1]
    benchmark(ops.lora_delta, rows(num, sum(WIDTHS)), rows(num), stack, windows)


@pytest.mark.parametrize("num", ROWS)
def test_rms_norm(benchmark: Any, num: int) -> None:
    """Before attention and before the MLP."""
    benchmark.group = f"norm and activation of {num} rows"
    benchmark(ops.rms_norm, rows(num), rows(1)[0], 1e-5)


@pytest.mark.parametrize("num", ROWS)
def test_silu_mul(benchmark: Any, num: int) -> None:
    """Of gate and up."""
    benchmark.group = f"norm and activation of {num} rows"
    benchmark(ops.silu_mul, rows(num, 2 * INTERMEDIATE))
