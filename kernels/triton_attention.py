"""Paged attention in Triton: one kernel over a work list, and one that merges the partial results of split rows.

    grid    items x KV heads; a program holds a tile of query rows, a group's heads folded into them
    loop    keys in steps of BLOCK_N: first those that every row of the item sees, without a mask, then the rest
    merge   a row in several items (split keys, shared prefixes) leaves normalised partials and their log-sum-exp

All that differs from step to step is in int32 device tensors (:class:`TileTensors`), so a captured graph replays over
new metadata. The softmax is the online one with base-2 exponents (Dao et al. 2022; Dao 2023), sums in float32; the
split over keys is that of flash-decoding (Dao et al. 2023).
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import torch
import triton
import triton.language as tl
from torch import Tensor

from alorakit.kernels.attention_tiles import ITEM_FIELDS, TILE_CLASSES, Tile, TileTensors, power_of_two

LOG2E = 1.4426950408889634
# Partials that the merging kernel reads at once: at batch 1 a row has about two per SM and KV head, so one read of 32
# where a model has 8 KV heads on 132 SMs.
MERGE_PARTS = 32
MERGE_WARPS = 4
# Read once by a program: the alignment of a plan's arrays is not worth a kernel of its own.
METADATA = ("items", "q_rows", "q_parts", "tables", "visible", "row_parts")


@triton.jit
def _attend_keys(
    m, norm, acc, q, keys, values, table, begin, end, first, a0, a1, b0, b1, scale,
    DIM: tl.constexpr, PADDED: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_SIZE: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Go over keys ``[begin, end)`` in steps of BLOCK_N with running maximum ``m``, sum ``norm`` and result ``acc``.

    Without MASKED every row sees all of them and they are whole steps. With it, keys before ``first`` and from ``end``
    on are not read, and a row sees those in ``[a0, a1)`` and ``[b0, b1)``.
    """
    n = tl.arange(0, BLOCK_N)
    d = tl.arange(0, PADDED)
    one_block: tl.constexpr = BLOCK_SIZE % BLOCK_N == 0  # a step lies in one block: its rows are consecutive
    block = tl.load(table + begin // BLOCK_SIZE, mask=begin < end, other=0)
    for start in range(begin, end, BLOCK_N):
        j = start + n
        valid = (j >= first) & (j < end)
        if one_block:
            place = (block.to(tl.int64) * BLOCK_SIZE + start % BLOCK_SIZE) * DIM
            k_at = keys + place + (n[:, None] * DIM + d[None, :])
            v_at = values + place + (n[:, None] * DIM + d[None, :])
            after = start + BLOCK_N  # the table is read a step ahead: the loads of keys do not wait for it
            block = tl.load(table + after // BLOCK_SIZE, mask=after < end, other=0)
        else:
            if MASKED:
                blocks = tl.load(table + j // BLOCK_SIZE, mask=valid, other=0)
            else:
                blocks = tl.load(table + j // BLOCK_SIZE)
            place = (blocks.to(tl.int64) * BLOCK_SIZE + j % BLOCK_SIZE) * DIM
            k_at = keys + place[:, None] + d[None, :]
            v_at = values + place[:, None] + d[None, :]
        if MASKED:
            readable = valid[:, None] & (d < DIM)[None, :]
            k = tl.load(k_at, mask=readable, other=0.0)
            v = tl.load(v_at, mask=readable, other=0.0)
        elif PADDED > DIM:
            k = tl.load(k_at, mask=(d < DIM)[None, :], other=0.0)
            v = tl.load(v_at, mask=(d < DIM)[None, :], other=0.0)
        else:
            k = tl.load(k_at)
            v = tl.load(v_at)
        s = tl.dot(q, tl.trans(k), input_precision="ieee")
        if MASKED:
            jn = j[None, :]
            seen = ((jn >= a0) & (jn < a1)) | ((jn >= b0) & (jn < b1))
            s = tl.where(seen, s, float("-inf"))
        top = tl.maximum(m, tl.max(s, 1) * scale)
        shift = tl.where(top == float("-inf"), 0.0, top) if MASKED else top  # a row may have seen no key yet
        p = tl.exp2(s * scale - shift[:, None])
        alpha = tl.exp2(m - shift)
        norm = norm * alpha + tl.sum(p, 1)
        acc = tl.dot(p.to(v.dtype), v, acc * alpha[:, None], input_precision="ieee")
        m = top
    return m, norm, acc


@triton.jit(do_not_specialize=["num_slots"], do_not_specialize_on_alignment=METADATA[:-1])
def attend_items(
    q, cache, out, part_out, part_lse, items, q_rows, q_parts, tables, visible, num_slots, q_stride, scale,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, DIM: tl.constexpr, PADDED: tl.constexpr, FIELDS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_SIZE: tl.constexpr,
):  # fmt: skip
    """One item, one KV head; see :func:`paged_attention`. ``scale`` includes log2(e)."""
    item = items + tl.program_id(0) * FIELDS
    q_count = tl.load(item + 1)
    if q_count == 0:
        return
    q_start = tl.load(item)
    table = tables + tl.load(item + 2)
    kv_begin = tl.load(item + 3)
    kv_end = tl.load(item + 4)
    full_end = tl.load(item + 5)
    kv_head = tl.program_id(1)

    # Row t of the tile is query t // GROUP with head t % GROUP of the group.
    t = tl.arange(0, BLOCK_M)
    live = t // GROUP < q_count
    head = kv_head * GROUP + t % GROUP
    d = tl.arange(0, PADDED)
    row = tl.load(q_rows + q_start + t // GROUP, mask=live, other=0).to(tl.int64)
    store = live[:, None] & (d < DIM)[None, :]
    query = tl.load(q + (row * q_stride + head * DIM)[:, None] + d[None, :], mask=store, other=0.0)
    m = tl.full([BLOCK_M], float("-inf"), tl.float32)
    norm = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, PADDED], tl.float32)

    keys = cache + kv_head.to(tl.int64) * num_slots * DIM
    values = keys + tl.full([], KV_HEADS, tl.int64) * num_slots * DIM
    # A step must lie in one block where blocks are read whole: steps begin at multiples of BLOCK_N then, and an item
    # that begins elsewhere (a window's edge) is masked all along.
    begin = kv_begin
    if BLOCK_SIZE % BLOCK_N == 0:
        begin = kv_begin // BLOCK_N * BLOCK_N
    steps = tl.where(begin == kv_begin, (full_end - kv_begin) // BLOCK_N, 0)
    middle = begin + steps * BLOCK_N
    m, norm, acc = _attend_keys(
        m, norm, acc, query, keys, values, table, begin, middle, 0, 0, 0, 0, 0, scale,
        DIM, PADDED, BLOCK_N, BLOCK_SIZE, False,
    )  # fmt: skip
    a0 = tl.load(visible + row * 4, mask=live, other=0)[:, None]
    a1 = tl.minimum(tl.load(visible + row * 4 + 1, mask=live, other=0), kv_end)[:, None]
    b0 = tl.load(visible + row * 4 + 2, mask=live, other=0)[:, None]
    b1 = tl.minimum(tl.load(visible + row * 4 + 3, mask=live, other=0), kv_end)[:, None]
    m, norm, acc = _attend_keys(
        m, norm, acc, query, keys, values, table, middle, kv_end, kv_begin,
        tl.maximum(a0, kv_begin), a1, tl.maximum(b0, kv_begin), b1, scale,
        DIM, PADDED, BLOCK_N, BLOCK_SIZE, True,
    )  # fmt: skip

    empty = norm == 0.0
    norm = tl.where(empty, 1.0, norm)
    acc = acc / norm[:, None]
    part = tl.load(q_parts + q_start + t // GROUP, mask=live, other=-1).to(tl.int64)
    whole = part < 0
    heads: tl.constexpr = KV_HEADS * GROUP
    place = ((row * heads + head) * DIM)[:, None] + d[None, :]
    tl.store(out + place, acc.to(out.dtype.element_ty), mask=store & whole[:, None])
    place = ((part * heads + head) * DIM)[:, None] + d[None, :]
    tl.store(part_out + place, acc, mask=store & (part >= 0)[:, None])
    lse = tl.where(empty, float("-inf"), m + tl.log2(norm))
    tl.store(part_lse + part * heads + head, lse, mask=live & (part >= 0))


@triton.jit(do_not_specialize_on_alignment=METADATA[-1:])
def merge_partials(
    out, part_out, part_lse, row_parts,
    HEADS: tl.constexpr, DIM: tl.constexpr, PADDED: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """One row, one head: the partials' mean, weighted by 2 to the power of their base-2 log-sum-exp."""
    row = tl.program_id(0)
    head = tl.program_id(1)
    first = tl.load(row_parts + row * 2)
    count = tl.load(row_parts + row * 2 + 1)
    if count == 0:
        return
    d = tl.arange(0, PADDED)
    top = float("-inf")
    norm = 0.0
    acc = tl.zeros([PADDED], tl.float32)
    for start in range(0, count, PARTS):
        part = start + tl.arange(0, PARTS)
        live = part < count
        place = (first + part).to(tl.int64) * HEADS + head
        lse = tl.load(part_lse + place, mask=live, other=float("-inf"))
        mask = live[:, None] & (d < DIM)[None, :]
        partial = tl.load(part_out + place[:, None] * DIM + d[None, :], mask=mask, other=0.0)
        new_top = tl.maximum(top, tl.max(lse, 0))
        shift = tl.where(new_top == float("-inf"), 0.0, new_top)
        weight = tl.exp2(lse - shift)
        alpha = tl.exp2(top - shift)
        norm = norm * alpha + tl.sum(weight, 0)
        acc = acc * alpha + tl.sum(partial * weight[:, None], 0)
        top = new_top
    acc = acc / tl.where(norm == 0.0, 1.0, norm)
    place = (row.to(tl.int64) * HEADS + head) * DIM + d
    tl.store(out + place, acc.to(out.dtype.element_ty), mask=d < DIM)


@dataclass(frozen=True)
class Partials:
    """Room for the results of rows that are in several items, for one layer at a time; need not be initialised.

    Attributes:
        out: float32 [parts, num_heads, head_dim].
        lse: float32 [parts, num_heads], base 2.
    """

    out: Tensor
    lse: Tensor

    @classmethod
    def empty(cls, num_parts: int, num_heads: int, head_dim: int, device: torch.device) -> Self:
        """Room for ``num_parts`` partials (at least one, so that there is an address to pass)."""
        shape = (max(num_parts, 1), num_heads)
        return cls(
            torch.empty((*shape, head_dim), dtype=torch.float32, device=device),
            torch.empty(shape, dtype=torch.float32, device=device),
        )


def paged_attention(
    out: Tensor,
    q: Tensor,
    cache: Tensor,
    work: TileTensors,
    partials: Partials,
    tile: Tile,
    block_size: int,
    scale: float,
    merge: bool = True,
) -> None:
    """Softmax attention of a batch's rows over one layer's paged cache; two launches, no host sync.

    Args:
        out: [rows, num_heads * head_dim], dtype of ``q``, contiguous; the rows of ``work`` are written, no others.
        q: [rows, num_heads, head_dim]; each row contiguous.
        cache: [2, num_kv_heads, num_slots, head_dim], dtype of ``q``, contiguous; keys, then values.
        work: Which rows attend to which keys, cut for ``tile``.
        partials: At least as many as the plan has; overwritten.
        tile: Launch settings, from :meth:`Tile.of`.
        block_size: Slots in a block.
        scale: Multiplies the scores; positive.
        merge: False leaves out the second launch: right only if the plan has no partials.
    """
    rows, heads, dim = q.shape
    kv_heads, num_slots = cache.shape[1:3]
    padded = max(power_of_two(dim), 16)
    attend_items[(len(work.items), kv_heads)](
        q, cache, out, partials.out, partials.lse, work.items, work.q_rows, work.q_parts, work.tables, work.visible,
        num_slots, q.stride(0), scale * LOG2E,
        kv_heads, heads // kv_heads, dim, padded, ITEM_FIELDS, tile.block_m, tile.block_n, block_size,
        num_warps=tile.num_warps, num_stages=tile.num_stages,
    )  # fmt: skip
    if merge:
        merge_partials[(rows, heads)](
            out, partials.out, partials.lse, work.row_parts, heads, dim, padded, MERGE_PARTS,
            num_warps=MERGE_WARPS,
        )  # fmt: skip


def aot() -> Iterator[tuple[str, Any, dict[str, str], dict[str, Any], int, int, bool]]:
    """Every configuration in use, for compiling ahead of time; pointers outside METADATA are 16-byte aligned.

    Yields:
        Name, kernel, signature, constants, warps, stages, whether it is for decoding.
    """
    types = {"fp32": 4, "fp16": 2, "bf16": 2}
    for (dtype, size), dim in ((pair, dim) for pair in types.items() for dim in (64, 128, 256)):
        for tile_class in TILE_CLASSES:
            tile = Tile.of(tile_class, dim, 4, size)
            signature = dict.fromkeys(("q", "cache", "out"), f"*{dtype}") | {"part_out": "*fp32", "part_lse": "*fp32"}
            signature |= dict.fromkeys(METADATA[:-1], "*i32")
            signature |= {"num_slots": "i32", "q_stride": "i32", "scale": "fp32"}
            constants = {"KV_HEADS": 8, "GROUP": 4, "DIM": dim, "PADDED": dim, "FIELDS": ITEM_FIELDS}
            constants |= {"BLOCK_M": tile.block_m, "BLOCK_N": tile.block_n, "BLOCK_SIZE": 64}
            signature |= dict.fromkeys(constants, "constexpr")
            name = f"attend_items-{tile_class}-{dtype}-{dim}"
            yield name, attend_items, signature, constants, tile.num_warps, tile.num_stages, tile_class == "decode"
        signature = {"out": f"*{dtype}", "part_out": "*fp32", "part_lse": "*fp32", "row_parts": "*i32"}
        constants = {"HEADS": 32, "DIM": dim, "PADDED": dim, "PARTS": MERGE_PARTS}
        signature |= dict.fromkeys(constants, "constexpr")
        yield f"merge_partials-{dtype}-{dim}", merge_partials, signature, constants, MERGE_WARPS, 3, True
