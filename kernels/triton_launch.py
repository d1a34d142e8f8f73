"""What the Triton kernels share: launch options, the expand of adapters' deltas."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

from collections.abc import Iterator
from typing import Any

import triton
import triton.language as tl

from alorakit.kernels.lora_rows import ROW_BLOCK, Projected


def warps_for(columns: int, item: int, splits: int) -> dict[str, int]:
    """Launch options of a program over ROW_BLOCK rows of so many columns of ``item`` bytes: such that nothing spills.

    Left to itself the assembler rather spills a register than have fewer programs on a multiprocessor; there are never
    many of these. The loads of all splits are in flight together.
    """
    warps = min(16, max(4 if splits <= 2 else 8, triton.next_power_of_2(columns * item // 64)))
    return {"num_warps": warps, "maxnreg": min(255, 65536 // (32 * warps))}


def rank_block(item: int) -> int:
    """Columns of the rank that one step of the expand multiplies, of ``item`` bytes each: so that nothing spills."""
    return 32 if item == 2 else 16


def row_block(rows: int) -> int:
    """Rows of a program: few get one each, whose delta takes no matrix unit; more share what is read of B."""
    return 1 if rows <= FEW_ROWS else ROW_BLOCK


def projected_args(projected: Projected) -> dict[str, Any]:
    """The arguments by which a kernel reads a projection: its sums, and the deltas to add."""
    splits, rows, width = projected.sums.shape
    args: dict[str, Any] = {"sums_ptr": projected.sums, "num_rows": rows, "width": width, "SPLITS": splits}
    args["ROW_BLOCK"] = row_block(rows)
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
    for split in tl.range(SPLITS, loop_unroll_factor=2):
        at = (split * num_rows + rows).to(tl.int64)[:, None] * width + columns[None, :]
        total += tl.load(sums_ptr + at, mask=live, other=0.0).to(tl.float32)
    return total


@triton.jit
def load_low(
    low_ptr,
    max_rank,
    num_rows,
    rows,
    part,
    start,
    PARTS: tl.constexpr,
    SPLITS: tl.constexpr,
    RANK_BLOCK: tl.constexpr,
):
    """float32 ``A x`` [rows, RANK_BLOCK] from rank ``start`` on, its splits summed; rows not adapted hold anything.

    It needs no look at the adapters, so it is under way while they are looked up.
    """
    ranks = start + tl.arange(0, RANK_BLOCK)
    live = (rows < num_rows)[:, None] & (ranks < max_rank)[None, :]
    low = tl.zeros([rows.shape[0], RANK_BLOCK], tl.float32)
    for split in tl.range(SPLITS, loop_unroll_factor=2):
        at = ((split * num_rows + rows) * PARTS + part)[:, None] * max_rank + ranks[None, :]
        low += tl.load(low_ptr + at, mask=live, other=0.0)
    return low


@triton.jit
def first_slot(row_slot_ptr, block_slots_ptr, block, ROW_BLOCK: tl.constexpr):
    """Slot of the first adapter of a block of rows; -1 if there is none."""
    return tl.load(row_slot_ptr + block if ROW_BLOCK == 1 else block_slots_ptr + block * ROW_BLOCK)


@triton.jit
def look_up(pointers_ptr, ranks_ptr, slot, part, PARTS: tl.constexpr):
    """Rank, and address of B, of a slot's adapter; rank 0 for slot -1 and where the part is not adapted."""
    pair = slot * PARTS + part
    rank = tl.load(ranks_ptr + pair, mask=slot >= 0, other=0)
    return rank, tl.load(pointers_ptr + pair * 2 + 1, mask=slot >= 0, other=0)


@triton.jit
def load_b(address, rank, start, columns, live_columns, like_ptr, RANK_BLOCK: tl.constexpr):
    """B [columns, RANK_BLOCK] from rank ``start`` on, zeros beyond the last; ranks are multiples of 8."""
    ranks = start + tl.arange(0, RANK_BLOCK)
    b_ptr = tl.multiple_of(address.to(tl.pointer_type(like_ptr.dtype.element_ty)), 16)
    at = columns[:, None] * (rank // 8 * 8) + ranks[None, :]  # the factor tells the compiler how rows are aligned
    return tl.load(b_ptr + at, mask=live_columns[:, None] & (ranks < rank)[None, :], other=0.0)


@triton.jit
def add_delta(total, low, b, rank, start, mine, like_ptr, RANK_BLOCK: tl.constexpr, ROW_BLOCK: tl.constexpr):
    """``total + low B``, of ranks from ``start`` on, in the rows that are ``mine``.

    Selected, not summed up with zeros: another row's adapter may hold infinities.
    """
    ranks = start + tl.arange(0, RANK_BLOCK)
    low = tl.where((ranks < rank)[None, :], low, 0.0).to(like_ptr.dtype.element_ty)
    if ROW_BLOCK == 1:
        delta = tl.sum(b.to(tl.float32) * low.to(tl.float32), 1)[None, :]
    else:
        delta = tl.dot(low, tl.trans(b), input_precision="ieee")
    return tl.where(mine[:, None], total + delta, total)


@triton.jit
def expand(
    total,
    low,
    b,
    slot,
    rank,
    address,
    slots,
    low_ptr,
    pointers_ptr,
    ranks_ptr,
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

    The adapters of a block of rows are taken one after the other, each for its rows alone, so B is read once a block.
    ``low`` and the first adapter's ``b`` are there already, and mostly that is all: the loops are for higher ranks and
    more adapters. ``slots`` are the rows'; ``like_ptr`` points to the compute dtype.
    """
    mine = (slots == slot) & (slots >= 0)
    total = add_delta(total, low, b, rank, 0, mine, like_ptr, RANK_BLOCK, ROW_BLOCK)
    for start in range(RANK_BLOCK, rank, RANK_BLOCK):
        more = load_b(address, rank, start, columns, live_columns, like_ptr, RANK_BLOCK)
        high = load_low(low_ptr, max_rank, num_rows, rows, part, start, PARTS, SPLITS, RANK_BLOCK)
        total = add_delta(total, high, more, rank, start, mine, like_ptr, RANK_BLOCK, ROW_BLOCK)
    if ROW_BLOCK > 1:
        for index in range(1, tl.load(block_counts_ptr + block)):
            other = tl.load(block_slots_ptr + block * ROW_BLOCK + index)
            other_rank, other_address = look_up(pointers_ptr, ranks_ptr, other, part, PARTS)
            mine = slots == other
            more = load_b(other_address, other_rank, 0, columns, live_columns, like_ptr, RANK_BLOCK)
            total = add_delta(total, low, more, other_rank, 0, mine, like_ptr, RANK_BLOCK, ROW_BLOCK)
            for start in range(RANK_BLOCK, other_rank, RANK_BLOCK):
                more = load_b(other_address, other_rank, start, columns, live_columns, like_ptr, RANK_BLOCK)
                high = load_low(low_ptr, max_rank, num_rows, rows, part, start, PARTS, SPLITS, RANK_BLOCK)
                total = add_delta(total, high, more, other_rank, start, mine, like_ptr, RANK_BLOCK, ROW_BLOCK)
    return total


# A kernel at one of the settings it is launched with: name, kernel, signature, constexprs, warps, stages, whether it is
# for decoding. Kernel files list theirs by ``aot``, so that tests can compile them without a GPU.
Setting = tuple[str, Any, dict[str, str], dict[str, Any], int, int, bool]

# Up to so many rows are one to a program.
FEW_ROWS = 8
DTYPES = ("bf16", "fp16", "fp32")


def projected_settings(dtype: str) -> Iterator[tuple[str, dict[str, str], dict[str, Any]]]:
    """Name, signature and constexprs of :func:`projected_args`, with and without adapters."""
    pointers = {"low_ptr": "*fp32", "pointers_ptr": "*i64"}
    pointers |= dict.fromkeys(("ranks_ptr", "row_slot_ptr", "block_slots_ptr", "block_counts_ptr"), "*i32")
    signature = {"sums_ptr": "*fp32", "num_rows": "i32", "width": "i32:16", "max_rank": "i32:16", **pointers}
    for count in (1, 2, 8):
        for lora in (False, True) if count <= 2 else (True,):
            for block in (1, ROW_BLOCK):
                constexprs = {"SPLITS": count, "PARTS": 3, "HAS_LORA": lora, "ROW_BLOCK": block}
                constexprs["RANK_BLOCK"] = rank_block(4 if dtype == "fp32" else 2)
                yield f"s{count}-r{block}{'-lora' if lora else ''}", signature, constexprs
