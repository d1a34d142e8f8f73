"""Low-rank deltas of several adapters on a prefill-sized batch: rows read once, only adapted rows touched.

    shrink   low[split, row, part, :] = x[row, split's features] A[slot of row, part]^T     float32 partial sums
    expand   out[row, part] += round(sum over splits of low[:, row, part, :]) B[slot of row, part]^T

A's features are cut into splits of fixed length so that a few hundred rows fill the device; the length does not depend
on the batch, so neither does a row's result. Weights are found through a table of addresses: adapters of any ranks
share a launch, and may come and go between replays of a captured graph.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from alorakit.kernels.lora_table import MAX_PARTS, LoraTable

SPLIT = 1024  # features of one partial sum
BLOCK_N = 128  # columns of one program
SHRINK_STAGES = 4
EXPAND_WARPS = 8


@triton.jit
def _weight(pointers, part, which: tl.constexpr, dtype: tl.constexpr):
    """Address of the A (``which`` 0) or B (1) of a part; ``pointers`` is at its slot."""
    address = tl.load(pointers + part * 2 + which)
    return tl.multiple_of(address.to(tl.pointer_type(dtype)), 16)


@triton.jit
def _load_b(b, n, q, width, rank):
    """B^T at ranks ``q`` and columns ``n``, zeros outside."""
    return tl.load(b + n[None, :] * rank + q[:, None], mask=(q[:, None] < rank) & (n[None, :] < width), other=0.0)


@triton.jit
def _shrink(
    x,
    low,
    pointers,
    ranks,
    tiles,
    x_stride,
    in_features,
    num_parts,
    low_split_stride,
    low_row_stride,
    SPLIT: tl.constexpr,
    RANKS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """One tile, one part, one block of its ranks, one split. Grid: (parts * rank blocks, splits, tiles)."""
    tile = tiles + tl.program_id(2) * 3
    start, num_rows, slot = tl.load(tile).to(tl.int64), tl.load(tile + 1), tl.load(tile + 2)
    if slot < 0:
        return
    part = tl.program_id(0) % num_parts
    first_rank = tl.program_id(0) // num_parts * BLOCK_R
    rank = tl.load(ranks + slot * num_parts + part)
    if first_rank >= rank:
        return
    a = _weight(pointers + slot * num_parts * 2, part, 0, x.dtype.element_ty)
    m, r, k = tl.arange(0, BLOCK_M), first_rank + tl.arange(0, BLOCK_R), tl.arange(0, BLOCK_K)
    x += start * x_stride
    first = tl.program_id(1) * SPLIT
    acc = tl.zeros((BLOCK_M, BLOCK_R), tl.float32)
    for k0 in range(first, tl.minimum(first + SPLIT, in_features), BLOCK_K):
        column = k0 + k
        valid = column < in_features
        x_at, a_at = x + m[:, None] * x_stride + column[None, :], a + r[None, :] * in_features + column[:, None]
        x_tile = tl.load(x_at, mask=(m[:, None] < num_rows) & valid[None, :], other=0.0)
        a_tile = tl.load(a_at, mask=(r[None, :] < rank) & valid[:, None], other=0.0)
        acc = tl.dot(x_tile, a_tile, acc, input_precision="tf32x3")
    low += tl.program_id(1) * low_split_stride + start * low_row_stride + part * RANKS
    # The whole block of ranks, zeros beyond the last: so reading it takes no mask.
    tl.store(low + m[:, None] * low_row_stride + r[None, :], acc, mask=m[:, None] < num_rows)


@triton.jit
def _expand(
    out,
    low,
    pointers,
    ranks,
    tiles,
    out_stride,
    width0,
    width1,
    width2,
    num_parts,
    low_split_stride,
    low_row_stride,
    num_splits,
    RANKS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """One tile, one block of a part's columns. Grid: (column blocks of all parts, tiles)."""
    tile = tiles + tl.program_id(1) * 3
    start, num_rows, slot = tl.load(tile).to(tl.int64), tl.load(tile + 1), tl.load(tile + 2)
    if slot < 0:
        return
    block = tl.program_id(0)
    blocks0, blocks1 = tl.cdiv(width0, BLOCK_N), tl.cdiv(width1, BLOCK_N)
    part, column, width = 0, 0, width0
    if block >= blocks0 + blocks1:
        part, column, width, block = 2, width0 + width1, width2, block - blocks0 - blocks1
    elif block >= blocks0:
        part, column, width, block = 1, width0, width1, block - blocks0
    rank = tl.load(ranks + slot * num_parts + part)
    if rank == 0:
        return
    dtype: tl.constexpr = out.dtype.element_ty
    b = _weight(pointers + slot * num_parts * 2, part, 1, dtype)
    m, n, r = tl.arange(0, BLOCK_M), block * BLOCK_N + tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_R)
    inside = (m[:, None] < num_rows) & (n[None, :] < width)
    out += start * out_stride + column
    out_at = out + m[:, None] * out_stride + n[None, :]
    acc = tl.load(out_at, mask=inside, other=0.0).to(tl.float32)
    low += start * low_row_stride + part * RANKS
    for r0 in range(0, rank, BLOCK_R):
        q = r0 + r
        low_at = low + m[:, None] * low_row_stride + q[None, :]
        low_tile = tl.zeros((BLOCK_M, BLOCK_R), tl.float32)
        for split in tl.range(0, num_splits, loop_unroll_factor=4):
            low_tile += tl.load(low_at + split * low_split_stride, mask=m[:, None] < num_rows, other=0.0)
        # Where rows of B are aligned, the factor 8 tells the compiler.
        b_tile = _load_b(b, n, q, width, rank // 8 * 8) if rank % 8 == 0 else _load_b(b, n, q, width, rank)
        acc = tl.dot(low_tile.to(dtype), b_tile, acc, input_precision="tf32x3")
    tl.store(out_at, acc.to(dtype), mask=inside)


def lora_delta(out: Tensor, x: Tensor, table: LoraTable, tiles: Tensor, block_m: int, max_rank: int) -> None:
    """Add to every adapted row of ``out``, in place, its adapter's ``B (A x)``; no host sync, capturable.

    Semantics, for a row r of slot s and a part p (``low`` is rounded to the compute dtype)::

        low = A[s, p] @ x[r]
        out[r, columns of p] += B[s, p] @ low

    Args:
        out: [rows, out_features], rows contiguous, modified in place; any row stride.
        x: [rows, in_features], rows contiguous, dtype of ``out``.
        table: The adapters' weights, in the same dtype.
        tiles: int32 [num_tiles, 3] on the device, from :func:`~alorakit.kernels.lora_table.lora_tiles`.
        block_m: Most rows of a tile: 16 or 64.
        max_rank: No rank of an adapter in ``tiles`` is larger.
    """
    if not len(tiles):
        return
    assert out.stride(1) == x.stride(1) == 1 and sum(table.widths) == out.shape[1]
    num_parts, in_features = len(table.widths), x.shape[1]
    settings = _settings(x.element_size(), block_m, max_rank)
    splits = triton.cdiv(in_features, SPLIT)
    low = torch.empty(splits, len(x), num_parts, settings["RANKS"], dtype=torch.float32, device=x.device)
    rank_blocks = settings["RANKS"] // settings["BLOCK_R"]
    shrink: Any = _shrink[num_parts * rank_blocks, splits, len(tiles)]
    shrink(
        x, low, table.pointers, table.ranks, tiles, x.stride(0), in_features, num_parts, low.stride(0), low.stride(1),
        SPLIT=SPLIT, BLOCK_K=_block_k(x.element_size(), block_m), num_warps=4, num_stages=SHRINK_STAGES, **settings,
    )  # fmt: skip
    widths = (*table.widths, 0, 0)[:MAX_PARTS]
    expand: Any = _expand[sum(triton.cdiv(width, BLOCK_N) for width in widths), len(tiles)]
    expand(
        out, low, table.pointers, table.ranks, tiles, out.stride(0), *widths, num_parts, low.stride(0), low.stride(1),
        splits, BLOCK_N=BLOCK_N, num_warps=EXPAND_WARPS, num_stages=2, **settings,
    )  # fmt: skip


def _settings(itemsize: int, block_m: int, max_rank: int) -> dict[str, int]:
    """Tiles of both kernels: a block of ranks is a power of two, at least what the matrix unit takes."""
    block_r = max(16, min(128 // itemsize, triton.next_power_of_2(max_rank)))
    return {"RANKS": triton.cdiv(max_rank, block_r) * block_r, "BLOCK_M": block_m, "BLOCK_R": block_r}


def _block_k(itemsize: int, block_m: int) -> int:
    """Features of one product: few rows need more of them on the way at a time."""
    return (128 if block_m == 64 else 256) // itemsize


def aot() -> Iterator[tuple[str, Any, dict[str, str], dict[str, Any], int, int, bool]]:
    """Every configuration in use: (name, kernel, signature, constexprs, num_warps, num_stages, is_decode).

    float16 is compiled as bfloat16 is, and ranks above 64 as 64 is.
    """
    types = {"pointers": "*i64", "ranks": "*i32", "tiles": "*i32", "low": "*fp32"}
    types |= dict.fromkeys(("num_parts", "num_splits"), "i32")
    for (dtype, itemsize), block_m, ranks in product({"bf16": 2, "fp32": 4}.items(), (16, 64), (16, 32, 64)):
        settings = _settings(itemsize, block_m, ranks)
        shrink = {"SPLIT": SPLIT, "BLOCK_K": _block_k(itemsize, block_m), **settings}
        expand = {"BLOCK_N": BLOCK_N, **settings}
        own = types | dict.fromkeys(("x", "out"), f"*{dtype}")
        for name, kernel, constexprs, num_warps, num_stages in (
            ("shrink", _shrink, shrink, 4, SHRINK_STAGES),
            ("expand", _expand, expand, EXPAND_WARPS, 2),
        ):
            signature = {arg: own.get(arg, "i32:16") for arg in kernel.arg_names if arg not in constexprs}
            full_name = f"{dtype}-{name}-rows{block_m}-rank{ranks}"
            yield full_name, kernel, signature, constexprs, num_warps, num_stages, False
