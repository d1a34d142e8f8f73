"""Decode-sized matrix products (up to 64 rows) that stream the weights once, the adapters' shrink riding along.

Semantics, for x [rows, in], W [out, in], row r with adapter slot s, part p of the packed projection::

    y[r]      = x[r] @ W.T + bias              (times r's 1 / rms, where x is not normalised yet)
    low[r, p] = x[r] @ A[s, p].T               (likewise)

A program holds a tile of W's rows, or of the rows of one adapter's A: both are rows of ``in`` numbers, so the same loop
reads either. The weights are the left factor of the product: they fill the 64 rows that Hopper's matrix unit wants,
and the batch's rows fill as little as 16 of its columns.

    axis 0   | shrink: slot group x part x rank tile | tiles of W |
    axis 1   | split of ``in``; partial sums are added up by whoever reads them
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from alorakit.kernels.lora_rows import Lora, Projected
from alorakit.kernels.triton_launch import DTYPES, Setting

MAX_ROWS = 64


@triton.jit
def linear_kernel(
    x_ptr,
    w_ptr,
    bias_ptr,
    sums_ptr,
    out_ptr,
    pointers_ptr,
    ranks_ptr,
    groups_ptr,
    row_slot_ptr,
    low_ptr,
    num_rows,
    n,
    k,
    k_split,
    eps,
    num_shrink,
    max_rank,
    rank_tiles,
    PARTS: tl.constexpr,
    NUM_SUMS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    EVEN_K: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_LORA: tl.constexpr,
    ITEM: tl.constexpr,
):
    """One tile of weight rows times all rows of x; see :func:`linear`."""
    pid = tl.program_id(0)
    split = tl.program_id(1)
    offs_n = tl.arange(0, BLOCK_N)
    offs_k = tl.arange(0, BLOCK_K)
    rows = tl.arange(0, ROWS)
    k0 = split * k_split
    k_end = tl.minimum(k0 + k_split, k)
    tile = pid - num_shrink
    base = tile.to(tl.int64) * BLOCK_N * k
    valid_n = n - tile * BLOCK_N
    slot = -1
    part = 0
    rank_tile = 0
    if HAS_LORA:
        shrink = pid < num_shrink
        rank_tile = pid % rank_tiles
        part = pid // rank_tiles % PARTS
        slot = tl.load(groups_ptr + pid // (rank_tiles * PARTS), mask=shrink, other=-1)
        pair = slot * PARTS + part
        rank = tl.load(ranks_ptr + pair, mask=slot >= 0, other=0)
        address = tl.load(pointers_ptr + pair * 2, mask=slot >= 0, other=0)
        # As an offset from w, so that the compiler knows how far the loads are aligned.
        if shrink & (rank <= rank_tile * BLOCK_N):
            return
        offset = (address - w_ptr.to(tl.int64)) // ITEM + rank_tile * BLOCK_N * k
        base = tl.where(shrink, offset, base)
        valid_n = tl.where(shrink, rank - rank_tile * BLOCK_N, valid_n)
    base = tl.multiple_of(base, 16 if EVEN_K else 1)
    iters = tl.where(valid_n > 0, tl.cdiv(k_end - k0, BLOCK_K), 0)
    k0 = tl.multiple_of(k0, 16 if EVEN_K else 1)
    w_ptrs = w_ptr + base + offs_n[:, None] * k + (k0 + offs_k)[None, :]
    live_n = offs_n[:, None] < valid_n
    x_ptrs = x_ptr + rows[:, None] * k + (k0 + offs_k)[None, :]
    live_rows = rows[:, None] < num_rows
    acc = tl.zeros([BLOCK_N, ROWS], tl.float32)
    for i in range(0, iters):
        if EVEN_K:
            w = tl.load(w_ptrs, mask=live_n, other=0.0)
            x = tl.load(x_ptrs, mask=live_rows, other=0.0)
        else:
            live_k = (k0 + i * BLOCK_K + offs_k)[None, :] < k_end
            w = tl.load(w_ptrs, mask=live_n & live_k, other=0.0)
            x = tl.load(x_ptrs, mask=live_rows & live_k, other=0.0)
        acc = tl.dot(w, tl.trans(x), acc, input_precision="ieee")
        w_ptrs += BLOCK_K
        x_ptrs += BLOCK_K
    if NUM_SUMS > 0:
        sums = tl.load(
            sums_ptr + rows[:, None] * NUM_SUMS + tl.arange(0, NUM_SUMS)[None, :],
            mask=rows[:, None] < num_rows,
            other=0.0,
        )
        acc *= tl.rsqrt(tl.sum(sums, 1) / k + eps)[None, :]
    live = (offs_n[:, None] < valid_n) & (rows[None, :] < num_rows)
    if HAS_LORA:  # noqa: SIM102 - known when compiled
        if pid < num_shrink:
            mine = tl.load(row_slot_ptr + rows, mask=rows < num_rows, other=-1) == slot
            dest = ((split * num_rows + rows) * PARTS + part) * max_rank + rank_tile * BLOCK_N
            tl.store(low_ptr + dest[None, :] + offs_n[:, None], acc, mask=live & mine[None, :])
    if pid >= num_shrink:
        columns = tile * BLOCK_N + offs_n
        if HAS_BIAS:
            bias = tl.load(bias_ptr + columns, mask=columns < n, other=0.0).to(tl.float32)
            acc += tl.where(split == 0, bias, 0.0)[:, None]
        dest = (split * num_rows + rows).to(tl.int64) * n
        tl.store(out_ptr + dest[None, :] + columns[:, None], acc, mask=live)


@dataclass(frozen=True)
class LinearTile:
    """Launch settings of one product.

    Attributes:
        block_n: Weight rows of a program.
        block_k: Columns of one step of its loop.
        splits: Parts that ``in`` is cut into.
        stages: Steps of loads in flight.
        warps: Warps of a program.
    """

    block_n: int
    block_k: int
    splits: int
    stages: int
    warps: int = 4


# Enough programs for the 108 multiprocessors of an A100 and the 132 of an H100.
MIN_PROGRAMS = 128


def linear_tile(rows: int, n: int, k: int, item: int) -> LinearTile:
    """The fixed choice for ``rows`` rows and a weight [n, k] of ``item`` bytes a number; see docs/kernels.md.

    Four stages, but of 64 rows three where there are programs enough that a multiprocessor should hold two.
    """
    splits = 1
    while triton.cdiv(n, 64) * splits < MIN_PROGRAMS and k // (2 * splits) >= 512:
        splits *= 2
    crowded = rows > 32 and triton.cdiv(n, 64) * splits > MIN_PROGRAMS
    warps = 8 if item == 4 and rows > 32 else 4  # so that triton 3.6 spills nothing in float32 either
    return LinearTile(block_n=64, block_k=256 // item, splits=splits, stages=3 if crowded else 4, warps=warps)


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    sums: Tensor | None = None,
    eps: float = 0.0,
    lora: Lora | None = None,
    tile: LinearTile | None = None,
    out: Tensor | None = None,
) -> Projected:
    """``x W^T + bias`` of up to 64 rows, and ``lora``'s shrink in the same launch.

    Args:
        x: [rows, in], contiguous; in bfloat16, float16 or float32.
        weight: [out, in], contiguous, dtype of ``x``.
        bias: [out] or None.
        sums: float32 [rows, parts]: partial sums of squares of rows that are not normalised yet; the result is
            multiplied by ``1 / sqrt(sum / in + eps)``. None: x is used as it is.
        eps: See ``sums``.
        lora: Adapters whose ``A x`` is wanted as well.
        tile: Launch settings; default: :func:`linear_tile`.
        out: float32 [rows, out] to write to where there is one split.

    Returns:
        Partial sums, float32 [splits, rows, out], and ``A x`` likewise.
    """
    rows, k = x.shape
    n = weight.shape[0]
    tile = tile or linear_tile(rows, n, k, x.element_size())
    if out is not None and tile.splits == 1:
        out = out[None]
    else:
        out = torch.empty(tile.splits, rows, n, dtype=torch.float32, device=x.device)
    parts, rank_tiles, num_shrink, max_rank = 1, 1, 0, 0
    low = None
    if lora is not None:
        parts, max_rank = lora.table.ranks.shape[1], lora.rows.max_rank
        rank_tiles = triton.cdiv(max_rank, tile.block_n)
        num_shrink = lora.rows.groups.shape[0] * parts * rank_tiles
        low = torch.empty(tile.splits, rows, parts, max_rank, dtype=torch.float32, device=x.device)
    k_split = triton.cdiv(triton.cdiv(k, tile.splits), tile.block_k) * tile.block_k
    linear_kernel[(num_shrink + triton.cdiv(n, tile.block_n), tile.splits)](
        x,
        weight,
        x if bias is None else bias,
        x if sums is None else sums,
        out,
        out if lora is None else lora.table.pointers,
        out if lora is None else lora.table.ranks,
        out if lora is None else lora.rows.groups,
        out if lora is None else lora.rows.row_slot,
        out if low is None else low,
        rows,
        n,
        k,
        k_split,
        eps,
        num_shrink,
        max_rank,
        rank_tiles,
        PARTS=parts,
        NUM_SUMS=0 if sums is None else sums.shape[1],
        ROWS=max(16, triton.next_power_of_2(rows)),
        BLOCK_N=tile.block_n,
        BLOCK_K=tile.block_k,
        EVEN_K=k % 16 == 0 and k_split * tile.splits == k,
        HAS_BIAS=bias is not None,
        HAS_LORA=lora is not None,
        ITEM=x.element_size(),
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    return Projected(out, low, lora)


def aot() -> Iterator[Setting]:
    """The settings in use; see ``triton_launch.Setting``."""
    ints = dict.fromkeys(("num_rows", "num_shrink", "rank_tiles"), "i32")
    ints |= dict.fromkeys(("n", "k", "k_split", "max_rank"), "i32:16") | {"eps": "fp32"}
    pointers = {"sums_ptr": "*fp32", "out_ptr": "*fp32", "pointers_ptr": "*i64", "low_ptr": "*fp32"}
    pointers |= dict.fromkeys(("ranks_ptr", "groups_ptr", "row_slot_ptr"), "*i32")
    for dtype in DTYPES:
        item = 4 if dtype == "fp32" else 2
        signature = dict.fromkeys(("x_ptr", "w_ptr", "bias_ptr"), f"*{dtype}") | pointers | ints
        for rows, n in ((16, 4096), (32, 4096), (64, 4096), (64, 25600)):
            tile = linear_tile(rows, n, 4096, item)
            for lora in (False, True):
                flags = {"EVEN_K": True, "HAS_BIAS": False, "HAS_LORA": lora, "ITEM": item}
                sizes = {"ROWS": rows, "BLOCK_N": tile.block_n, "BLOCK_K": tile.block_k, "PARTS": 3, "NUM_SUMS": 32}
                name = f"{dtype}-{rows}-{tile.stages}{'-lora' if lora else ''}"
                yield name, linear_kernel, signature, flags | sizes, tile.warps, tile.stages, True
