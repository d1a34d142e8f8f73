"""What the Triton kernels share: launch options, the expand of adapters' deltas."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from alorakit.kernels.lora_rows import ROW_BLOCK, Projected


def ceil_div(a: int, b: int) -> int:
    """``a / b``, rounded up."""
    return -(-a // b)


def next_power_of_2(n: int) -> int:
    """The smallest power of two that is at least ``n``."""
    return 1 << max(0, n - 1).bit_length()


def warps_for(columns: int, item: int, splits: int) -> dict[str, int]:
    """Launch options of a program over ROW_BLOCK rows of so many columns of ``item`` bytes: such that nothing spills.

    Left to itself the assembler rather spills a register than have fewer programs on a multiprocessor; there are never
    many of these. The loads of all splits are in flight together.
    """
    warps = min(16, max(4 if splits <= 2 else 8, columns * item // 64))
    return {"num_warps": warps, "maxnreg": min(255, 65536 // (32 * warps))}


def rank_block(item: int) -> int:
    """Columns of the rank that one step of the expand multiplies, of ``item`` bytes each: so that nothing spills."""
    return 32 if item == 2 else 16


def pdl_options(pdl: bool) -> dict[str, Any]:
    """Launch options of a kernel that may start before the one in front has ended (Hopper only)."""
    return {"PDL": True, "launch_pdl": True} if pdl else {"PDL": False}


def projected_args(projected: Projected) -> dict[str, Any]:
    """The arguments by which a kernel reads a projection: its sums, and the deltas to add."""
    splits, rows, width = projected.sums.shape
    args: dict[str, Any] = {"sums_ptr": projected.sums, "num_rows": rows, "width": width, "SPLITS": splits}
    lora, low = projected.lora, projected.low
    if lora is None or low is None:
        unused = projected.sums
        names = ("low_ptr", "pointers_ptr", "ranks_ptr", "row_slot_ptr", "block_slots_ptr", "block_counts_ptr")
        return args | dict.fromkeys(names, unused) | {"max_rank": 0, "PARTS": 1, "HAS_LORA": False}
    return args | {
        "low_ptr": low,
        "pointers_ptr": lora.table.pointers,
        "ranks_ptr": lora.table.ranks,
        "row_slot_ptr": lora.rows.row_slot,
        "block_slots_ptr": lora.rows.block_slots,
        "block_counts_ptr": lora.rows.block_counts,
        "max_rank": low.shape[3],
        "PARTS": low.shape[2],
        "HAS_LORA": True,
    }


@triton.jit
def load_projected(
    sums_ptr,
    num_rows,
    width,
    rows,
    columns,
    live,
    SPLITS: tl.constexpr,
):
    """float32 [rows, columns] of a projection, its splits summed."""
    total = tl.zeros([rows.shape[0], columns.shape[0]], tl.float32)
    for split in tl.static_range(SPLITS):
        at = (split * num_rows + rows).to(tl.int64)[:, None] * width + columns[None, :]
        total += tl.load(sums_ptr + at, mask=live, other=0.0).to(tl.float32)
    return total


@triton.jit
def load_b(address, rank, start, columns, live_columns, like_ptr, RANK_BLOCK: tl.constexpr):
    """B [columns, RANK_BLOCK] from rank ``start`` on, zeros beyond the last; ranks are multiples of 8."""
    ranks = start + tl.arange(0, RANK_BLOCK)
    b_ptr = tl.multiple_of(address.to(tl.pointer_type(like_ptr.dtype.element_ty)), 16)
    at = columns[:, None] * (rank // 8 * 8) + ranks[None, :]  # the factor tells the compiler how rows are aligned
    return tl.load(b_ptr + at, mask=live_columns[:, None] & (ranks < rank)[None, :], other=0.0)


@triton.jit
def first_b(
    pointers_ptr,
    ranks_ptr,
    block_slots_ptr,
    block,
    part,
    columns,
    live_columns,
    like_ptr,
    PARTS: tl.constexpr,
    RANK_BLOCK: tl.constexpr,
    ROW_BLOCK: tl.constexpr,
):
    """The first ranks of B of the first adapter of a block of rows; zeros if there is none.

    Nothing of it was written by the kernel in front, so it is loaded while that one ends.
    """
    slot = tl.load(block_slots_ptr + block * ROW_BLOCK)
    rank = tl.load(ranks_ptr + slot * PARTS + part, mask=slot >= 0, other=0)
    address = tl.load(pointers_ptr + (slot * PARTS + part) * 2 + 1, mask=slot >= 0, other=0)
    return load_b(address, rank, 0, columns, live_columns, like_ptr, RANK_BLOCK)


@triton.jit
def load_low(
    low_ptr,
    max_rank,
    num_rows,
    rows,
    part,
    start,
    rank,
    mine,
    like_ptr,
    PARTS: tl.constexpr,
    SPLITS: tl.constexpr,
    RANK_BLOCK: tl.constexpr,
):
    """``A x`` [rows, RANK_BLOCK] of rows that are ``mine``, its splits summed, in the compute dtype."""
    ranks = start + tl.arange(0, RANK_BLOCK)
    live = mine[:, None] & (ranks < rank)[None, :]
    low = tl.zeros([rows.shape[0], RANK_BLOCK], tl.float32)
    for split in tl.static_range(SPLITS):
        at = ((split * num_rows + rows) * PARTS + part)[:, None] * max_rank + ranks[None, :]
        low += tl.load(low_ptr + at, mask=live, other=0.0)
    return low.to(like_ptr.dtype.element_ty)


@triton.jit
def expand(
    total,
    loaded_b,
    low_ptr,
    pointers_ptr,
    ranks_ptr,
    row_slot_ptr,
    block_slots_ptr,
    block_counts_ptr,
    max_rank,
    num_rows,
    block,
    rows,
    part,
    columns,
    live_columns,
    like_ptr,
    PARTS: tl.constexpr,
    SPLITS: tl.constexpr,
    RANK_BLOCK: tl.constexpr,
    ROW_BLOCK: tl.constexpr,
):
    """Add ``low B`` of the rows' adapters to ``total`` [rows, columns]; ``columns`` count from the part's first.

    The adapters of a block of rows are taken one after the other, each for its rows alone, so B is read once a block;
    the first one's is there already (:func:`first_b`). ``like_ptr`` points to the compute dtype.
    """
    live_rows = rows < num_rows
    slots = tl.load(row_slot_ptr + rows, mask=live_rows, other=-1)
    for index in range(0, tl.load(block_counts_ptr + block)):
        slot = tl.load(block_slots_ptr + block * ROW_BLOCK + index)
        rank = tl.load(ranks_ptr + slot * PARTS + part)
        mine = live_rows & (slots == slot)
        delta = tl.zeros_like(total)
        for start in range(0, rank, RANK_BLOCK):
            if index == 0 and start == 0:
                b = loaded_b
            else:
                address = tl.load(pointers_ptr + (slot * PARTS + part) * 2 + 1)
                b = load_b(address, rank, start, columns, live_columns, like_ptr, RANK_BLOCK)
            low = load_low(
                low_ptr, max_rank, num_rows, rows, part, start, rank, mine, like_ptr, PARTS, SPLITS, RANK_BLOCK
            )
            delta = tl.dot(low, tl.trans(b), delta, input_precision="ieee")
        # Selected, not summed up with zeros: another row's adapter may hold infinities.
        total = tl.where(mine[:, None], total + delta, total)
    return total


def row_blocks(rows: int) -> int:
    """Blocks of ROW_BLOCK rows."""
    return ceil_div(rows, ROW_BLOCK)


def empty_like_rows(x: Tensor, rows: int, width: int) -> Tensor:
    """[rows, width] of x's dtype and device."""
    return torch.empty(rows, width, dtype=x.dtype, device=x.device)


# A kernel at one of the settings it is launched with: name, kernel, signature, constexprs, warps, stages, whether it is
# for decoding. Kernel files list theirs by ``aot``, so that tests can compile them without a GPU.
Setting = tuple[str, Any, dict[str, str], dict[str, Any], int, int, bool]

DTYPES = ("bf16", "fp16", "fp32")


def projected_settings(dtype: str) -> Iterator[tuple[str, dict[str, str], dict[str, Any]]]:
    """Name, signature and constexprs of :func:`projected_args`, with and without adapters."""
    pointers = {"low_ptr": "*fp32", "pointers_ptr": "*i64"}
    pointers |= dict.fromkeys(("ranks_ptr", "row_slot_ptr", "block_slots_ptr", "block_counts_ptr"), "*i32")
    signature = {"sums_ptr": "*fp32", "num_rows": "i32", "width": "i32:16", "max_rank": "i32:16", **pointers}
    for count, lora in ((1, False), (1, True), (2, False), (2, True), (8, True)):
        if count <= 2 or dtype != "fp32":  # nobody decodes in float32 for speed
            constexprs = {"SPLITS": count, "PARTS": 3, "HAS_LORA": lora, "ROW_BLOCK": ROW_BLOCK}
            yield (
                f"s{count}{'-lora' if lora else ''}",
                signature,
                constexprs | {"RANK_BLOCK": rank_block(4 if dtype == "fp32" else 2)},
            )
