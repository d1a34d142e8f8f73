"""Residual add and norm, spread over columns so that a single row keeps many multiprocessors busy.

Semantics, for the residual stream x [rows, hidden] and a projection's output d::

    x     = x + scale * d
    h     = x * weight                  (not divided by x's rms yet)
    sums  = partial sums of x^2         (the matrix product that reads h divides by the rms)

so no program waits for a whole row.
"""

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

BLOCK_COLUMNS = 128


@triton.jit
def _store(x, weight, out_ptr, h_ptr, squares_ptr, num_squares, rows, at, live, num_rows):
    """The block's residual stream, rounded; what the norm makes of it; its squares summed over these columns."""
    x = x.to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + at, x, mask=live)
    x = x.to(tl.float32)
    tl.store(h_ptr + at, (x * weight[None, :]).to(h_ptr.dtype.element_ty), mask=live)
    tl.store(squares_ptr + rows * num_squares + tl.program_id(1), tl.sum(x * x, 1), mask=rows < num_rows)


@triton.jit
def add_norm_kernel(
    x_ptr,
    weight_ptr,
    out_ptr,
    h_ptr,
    squares_ptr,
    scale,
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
    num_squares,
    SPLITS: tl.constexpr,
    PARTS: tl.constexpr,
    HAS_LORA: tl.constexpr,
    ROW_BLOCK: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    RANK_BLOCK: tl.constexpr,
):
    """A block of rows and columns; see :func:`add_norm`."""
    block = tl.program_id(0)
    rows = block * ROW_BLOCK + tl.arange(0, ROW_BLOCK)
    columns = tl.program_id(1) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    live_columns = columns < width
    live = (rows < num_rows)[:, None] & live_columns[None, :]
    weight = tl.load(weight_ptr + columns, mask=live_columns, other=0.0).to(tl.float32)
    at = rows.to(tl.int64)[:, None] * width + columns[None, :]
    x = tl.load(x_ptr + at, mask=live, other=0.0).to(tl.float32)
    delta = load_projected(sums_ptr, num_rows, width, rows, columns, live, SPLITS)
    if HAS_LORA:
        slots_of_rows = tl.load(row_slot_ptr + rows, mask=rows < num_rows, other=-1)
        low = load_low(low_ptr, max_rank, num_rows, rows, 0, 0, PARTS, SPLITS, RANK_BLOCK)
        slot = first_slot(row_slot_ptr, block_slots_ptr, block, ROW_BLOCK)
        rank, address = look_up(pointers_ptr, ranks_ptr, slot, 0, PARTS)
        b = load_b(address, rank, 0, columns, live_columns, x_ptr, RANK_BLOCK)
        delta = expand(
            delta,
            low,
            b,
            slot,
            rank,
            address,
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
            x_ptr,
            PARTS,
            SPLITS,
            RANK_BLOCK,
            ROW_BLOCK,
        )
    _store(x + scale * delta, weight, out_ptr, h_ptr, squares_ptr, num_squares, rows, at, live, num_rows)


@triton.jit
def embed_norm_kernel(
    ids_ptr,
    embedding_ptr,
    weight_ptr,
    out_ptr,
    h_ptr,
    squares_ptr,
    scale,
    num_rows,
    width,
    num_squares,
    ROW_BLOCK: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """The same for the rows' embeddings; see :func:`embed_norm`."""
    rows = tl.program_id(0) * ROW_BLOCK + tl.arange(0, ROW_BLOCK)
    columns = tl.program_id(1) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    live_columns = columns < width
    live = (rows < num_rows)[:, None] & live_columns[None, :]
    ids = tl.load(ids_ptr + rows, mask=rows < num_rows, other=0).to(tl.int64)
    x = tl.load(embedding_ptr + ids[:, None] * width + columns[None, :], mask=live, other=0.0).to(tl.float32) * scale
    at = rows.to(tl.int64)[:, None] * width + columns[None, :]
    weight = tl.load(weight_ptr + columns, mask=live_columns, other=0.0).to(tl.float32)
    _store(x, weight, out_ptr, h_ptr, squares_ptr, num_squares, rows, at, live, num_rows)


def add_norm(x: Tensor, projected: Projected, weight: Tensor, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Add a projection to the residual stream and prepare its norm.

    Args:
        x: [rows, hidden], contiguous.
        projected: [splits, rows, hidden] and its adapters' deltas.
        weight: [hidden], the norm's.
        scale: Factor of the projection (``residual_multiplier``).

    Returns:
        x, h [rows, hidden] in x's dtype, and float32 [rows, a power of two] partial sums of squares.
    """
    out, h, squares = _outputs(x, *x.shape)
    add_norm_kernel[(triton.cdiv(x.shape[0], row_block(x.shape[0])), squares.shape[1])](
        x_ptr=x,
        weight_ptr=weight,
        out_ptr=out,
        h_ptr=h,
        squares_ptr=squares,
        scale=scale,
        num_squares=squares.shape[1],
        BLOCK_COLUMNS=BLOCK_COLUMNS,
        RANK_BLOCK=rank_block(x.element_size()),
        **warps_for(BLOCK_COLUMNS, x.element_size(), projected.sums.shape[0]),
        **projected_args(projected),
    )
    return out, h, squares


def embed_norm(ids: Tensor, embedding: Tensor, weight: Tensor, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`add_norm` of nothing but ``scale * embedding[ids]``; ids int32 or int64 [rows]."""
    rows, hidden = ids.shape[0], embedding.shape[1]
    out, h, squares = _outputs(embedding, rows, hidden)
    embed_norm_kernel[(triton.cdiv(rows, row_block(rows)), squares.shape[1])](
        ids,
        embedding,
        weight,
        out,
        h,
        squares,
        scale,
        rows,
        hidden,
        squares.shape[1],
        ROW_BLOCK=row_block(rows),
        BLOCK_COLUMNS=BLOCK_COLUMNS,
    )
    return out, h, squares


def _outputs(like: Tensor, rows: int, hidden: int) -> tuple[Tensor, Tensor, Tensor]:
    out, h = (torch.empty(rows, hidden, dtype=like.dtype, device=like.device) for _ in range(2))
    num = triton.next_power_of_2(triton.cdiv(hidden, BLOCK_COLUMNS))  # programs past the last column write zero
    return out, h, torch.empty(rows, num, dtype=torch.float32, device=like.device)


def aot() -> Iterator[Setting]:
    """The settings in use; see ``triton_launch.Setting``."""
    for dtype in DTYPES:
        own = dict.fromkeys(("x_ptr", "weight_ptr", "out_ptr", "h_ptr"), f"*{dtype}")
        own |= {"squares_ptr": "*fp32", "scale": "fp32", "num_squares": "i32"}
        for name, signature, constexprs in projected_settings(dtype):
            options = warps_for(BLOCK_COLUMNS, 4 if dtype == "fp32" else 2, constexprs["SPLITS"])
            warps = options.pop("num_warps")
            flags = constexprs | {"BLOCK_COLUMNS": BLOCK_COLUMNS, "PARTS": 1} | options
            yield f"{dtype}-{name}", add_norm_kernel, own | signature, flags, warps, 3, True
        names = {"embedding_ptr", "weight_ptr", "out_ptr", "h_ptr"}
        signature = dict.fromkeys(names, f"*{dtype}") | {"ids_ptr": "*i32", "squares_ptr": "*fp32", "scale": "fp32"}
        signature |= {"num_rows": "i32", "width": "i32:16", "num_squares": "i32"}
        flags = {"ROW_BLOCK": 16, "BLOCK_COLUMNS": BLOCK_COLUMNS}
        yield f"embed-{dtype}", embed_norm_kernel, signature, flags, 4, 3, True
