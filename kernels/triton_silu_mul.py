"""``silu(gate) * up`` of a fused gate/up projection, its splits summed and its adapters' deltas added on the way."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from alorakit.kernels.lora_rows import Projected
from alorakit.kernels.triton_launch import (
    DTYPES,
    Setting,
    expand,
    first_slot,
    load_b,
    load_low,
    load_projected,
    look_up,
    projected_args,
    projected_settings,
    rank_block,
    row_block,
    warps_for,
)

BLOCK_BYTES = 128


@triton.jit
def silu_mul_kernel(
    out_ptr,
    sums_ptr,
    num_rows,
    width,
    low_ptr,
    pointers_ptr,
    ranks_ptr,
    row_slot_ptr,
    block_slots_ptr,
    block_counts_ptr,
    max_rank,
    SPLITS: tl.constexpr,
    PARTS: tl.constexpr,
    HAS_LORA: tl.constexpr,
    ROW_BLOCK: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    RANK_BLOCK: tl.constexpr,
):
    """A block of rows and columns; see :func:`silu_mul`."""
    block = tl.program_id(0)
    rows = block * ROW_BLOCK + tl.arange(0, ROW_BLOCK)
    columns = tl.program_id(1) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    inter = width // 2
    live_columns = columns < inter
    live = (rows < num_rows)[:, None] & live_columns[None, :]
    gate = load_projected(sums_ptr, num_rows, width, rows, columns, live, SPLITS)
    up = load_projected(sums_ptr, num_rows, width, rows, columns + inter, live, SPLITS)
    if HAS_LORA:
        slots_of_rows = tl.load(row_slot_ptr + rows, mask=rows < num_rows, other=-1)
        gate_low = load_low(low_ptr, max_rank, num_rows, rows, 0, 0, PARTS, SPLITS, RANK_BLOCK)
        up_low = load_low(low_ptr, max_rank, num_rows, rows, 1, 0, PARTS, SPLITS, RANK_BLOCK)
        slot = first_slot(row_slot_ptr, block_slots_ptr, block, ROW_BLOCK)
        gate_rank, gate_address = look_up(pointers_ptr, ranks_ptr, slot, 0, PARTS)
        up_rank, up_address = look_up(pointers_ptr, ranks_ptr, slot, 1, PARTS)
        gate_b = load_b(gate_address, gate_rank, 0, columns, live_columns, out_ptr, RANK_BLOCK)
        up_b = load_b(up_address, up_rank, 0, columns, live_columns, out_ptr, RANK_BLOCK)
        gate = expand(
            gate,
            gate_low,
            gate_b,
            slot,
            gate_rank,
            gate_address,
            slots_of_rows,
            low_ptr,
            pointers_ptr,
            ranks_ptr,
            block_slots_ptr,
            block_counts_ptr,
            max_rank,
            num_rows,
            block,
            rows,
            0,
            columns,
            live_columns,
            out_ptr,
            PARTS,
            SPLITS,
            RANK_BLOCK,
            ROW_BLOCK,
        )
        up = expand(
            up,
            up_low,
            up_b,
            slot,
            up_rank,
            up_address,
            slots_of_rows,
            low_ptr,
            pointers_ptr,
            ranks_ptr,
            block_slots_ptr,
            block_counts_ptr,
            max_rank,
            num_rows,
            block,
            rows,
            1,
            columns,
            live_columns,
            out_ptr,
            PARTS,
            SPLITS,
            RANK_BLOCK,
            ROW_BLOCK,
        )
    value = gate * tl.sigmoid(gate) * up
    at = rows.to(tl.int64)[:, None] * inter + columns[None, :]
    tl.store(out_ptr + at, value.to(out_ptr.dtype.element_ty), mask=live)


def silu_mul(projected: Projected, dtype: torch.dtype) -> Tensor:
    """``silu(gate) * up``.

    Args:
        projected: [splits, rows, 2 * intermediate], gate before up, and its adapters' deltas.
        dtype: Of the result.

    Returns:
        [rows, intermediate].
    """
    _, rows, width = projected.sums.shape
    out = torch.empty(rows, width // 2, dtype=dtype, device=projected.sums.device)
    columns = BLOCK_BYTES // dtype.itemsize
    silu_mul_kernel[(triton.cdiv(rows, row_block(rows)), triton.cdiv(width // 2, columns))](
        out_ptr=out,
        BLOCK_COLUMNS=columns,
        RANK_BLOCK=rank_block(out.element_size()),
        **warps_for(2 * columns, out.element_size(), projected.sums.shape[0]),
        **projected_args(projected),
    )
    return out


def aot() -> Iterator[Setting]:
    """The settings in use; see ``triton_launch.Setting``."""
    for dtype in DTYPES:
        item = 4 if dtype == "fp32" else 2
        for name, signature, constexprs in projected_settings(dtype):
            options = warps_for(2 * BLOCK_BYTES // item, item, constexprs["SPLITS"])
            warps = options.pop("num_warps")
            flags = constexprs | {"BLOCK_COLUMNS": BLOCK_BYTES // item, "PARTS": 2} | options
            yield f"{dtype}-{name}", silu_mul_kernel, {"out_ptr": f"*{dtype}"} | signature, flags, warps, 3, True
