"""From a fused q/k/v projection to rotated queries and the paged cache, in one pass.

For each head of each row: the projection's splits are summed, the adapters' deltas added, q and k normed (where the
model does that) and rotated, and k and v written to the row's slot.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

from collections.abc import Iterator
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Rotary:
    """Cosines and sines, [positions, head_dim] each in the compute dtype, sines' first half negated (see ops.rope)."""

    cos: Tensor
    sin: Tensor


@triton.jit
def rope_kv_write_kernel(
    q_ptr,
    cache_ptr,
    positions_ptr,
    slots_ptr,
    cos_ptr,
    sin_ptr,
    q_norm_ptr,
    k_norm_ptr,
    eps,
    num_heads,
    num_kv_heads,
    num_slots,
    half,
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
    HAS_NORM: tl.constexpr,
    HALF: tl.constexpr,
    ROW_BLOCK: tl.constexpr,
    RANK_BLOCK: tl.constexpr,
):
    """A block of rows of one head; see :func:`rope_kv_write`."""
    block = tl.program_id(0)
    head = tl.program_id(1)
    dim = half * 2
    rows = block * ROW_BLOCK + tl.arange(0, ROW_BLOCK)
    within = tl.arange(0, HALF)
    live_columns = within < half
    live_rows = rows < num_rows
    live = live_rows[:, None] & live_columns[None, :]
    part = tl.where(head < num_heads, 0, tl.where(head < num_heads + num_kv_heads, 1, 2))
    first_head = tl.where(part == 0, 0, tl.where(part == 1, num_heads, num_heads + num_kv_heads))
    low_half = load_projected(sums_ptr, num_rows, width, rows, head * dim + within, live, SPLITS)
    high_half = load_projected(sums_ptr, num_rows, width, rows, head * dim + half + within, live, SPLITS)
    positions = tl.load(positions_ptr + rows, mask=live_rows, other=0)
    slots = tl.load(slots_ptr + rows, mask=live_rows, other=-1).to(tl.int64)
    if HAS_LORA:
        slots_of_rows = tl.load(row_slot_ptr + rows, mask=rows < num_rows, other=-1)
        low = load_low(low_ptr, max_rank, num_rows, rows, part, 0, PARTS, SPLITS, RANK_BLOCK)
        slot = first_slot(row_slot_ptr, block_slots_ptr, block, ROW_BLOCK)
        rank, address = look_up(pointers_ptr, ranks_ptr, slot, part, PARTS)
        column = (head - first_head) * dim + within
        low_b = load_b(address, rank, 0, column, live_columns, q_ptr, RANK_BLOCK)
        high_b = load_b(address, rank, 0, column + half, live_columns, q_ptr, RANK_BLOCK)
        low_half = expand(
            low_half,
            low,
            low_b,
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
            part,
            column,
            live_columns,
            q_ptr,
            PARTS,
            SPLITS,
            RANK_BLOCK,
            ROW_BLOCK,
        )
        high_half = expand(
            high_half,
            low,
            high_b,
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
            part,
            column + half,
            live_columns,
            q_ptr,
            PARTS,
            SPLITS,
            RANK_BLOCK,
            ROW_BLOCK,
        )
    if part < 2:
        if HAS_NORM:
            squares = tl.sum(low_half * low_half, 1) + tl.sum(high_half * high_half, 1)
            inverse = tl.rsqrt(squares / dim + eps)[:, None]
            low_weight = tl.load(q_norm_ptr + within, mask=live_columns & (part == 0), other=0.0).to(tl.float32)
            low_weight += tl.load(k_norm_ptr + within, mask=live_columns & (part == 1), other=0.0).to(tl.float32)
            high_weight = tl.load(q_norm_ptr + half + within, mask=live_columns & (part == 0), other=0.0).to(tl.float32)
            high_weight += tl.load(k_norm_ptr + half + within, mask=live_columns & (part == 1), other=0.0).to(
                tl.float32
            )
            low_half *= inverse * low_weight[None, :]
            high_half *= inverse * high_weight[None, :]
        at = positions.to(tl.int64)[:, None] * dim + within[None, :]
        low_cos = tl.load(cos_ptr + at, mask=live, other=0.0).to(tl.float32)
        low_sin = tl.load(sin_ptr + at, mask=live, other=0.0).to(tl.float32)
        high_cos = tl.load(cos_ptr + half + at, mask=live, other=0.0).to(tl.float32)
        high_sin = tl.load(sin_ptr + half + at, mask=live, other=0.0).to(tl.float32)
        rotated = low_half * low_cos + high_half * low_sin
        high_half = high_half * high_cos + low_half * high_sin
        low_half = rotated
    dtype = q_ptr.dtype.element_ty
    if part == 0:
        at = (rows.to(tl.int64) * num_heads + head)[:, None] * dim + within[None, :]
        tl.store(q_ptr + at, low_half.to(dtype), mask=live)
        tl.store(q_ptr + half + at, high_half.to(dtype), mask=live)
    else:
        live = live & (slots >= 0)[:, None]
        plane = (part - 1) * num_kv_heads + head - first_head
        at = (plane.to(tl.int64) * num_slots + slots)[:, None] * dim + within[None, :]
        tl.store(cache_ptr + at, low_half.to(dtype), mask=live)
        tl.store(cache_ptr + half + at, high_half.to(dtype), mask=live)


def rope_kv_write(
    projected: Projected,
    cache: Tensor,
    positions: Tensor,
    slots: Tensor,
    rotary: Rotary,
    num_heads: int,
    qk_norm: tuple[Tensor, Tensor] | None = None,
    eps: float = 0.0,
) -> Tensor:
    """Rotate q and k, write k and v to the cache.

    Args:
        projected: [splits, rows, (num_heads + 2 * num_kv_heads) * head_dim] and its adapters' deltas.
        cache: [2, num_kv_heads, num_slots, head_dim], contiguous, modified in place; keys, then values.
        positions: int32 or int64 [rows].
        slots: int32 or int64 [rows]; rows of a negative slot are not written.
        rotary: Tables up to the highest position.
        num_heads: Query heads.
        qk_norm: Weights [head_dim] of q's and k's head norms, where the model has them.
        eps: Of those norms.

    Returns:
        q [rows, num_heads, head_dim] in the cache's dtype.
    """
    rows = projected.sums.shape[1]
    _, num_kv_heads, num_slots, dim = cache.shape
    q = torch.empty(rows, num_heads, dim, dtype=cache.dtype, device=cache.device)
    q_norm, k_norm = qk_norm or (rotary.cos, rotary.cos)
    rope_kv_write_kernel[(triton.cdiv(rows, row_block(rows)), num_heads + 2 * num_kv_heads)](
        q_ptr=q,
        cache_ptr=cache,
        positions_ptr=positions,
        slots_ptr=slots,
        cos_ptr=rotary.cos,
        sin_ptr=rotary.sin,
        q_norm_ptr=q_norm,
        k_norm_ptr=k_norm,
        eps=eps,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        num_slots=num_slots,
        half=dim // 2,
        HAS_NORM=qk_norm is not None,
        HALF=triton.next_power_of_2(dim // 2),
        RANK_BLOCK=rank_block(cache.element_size()),
        **warps_for(dim, cache.element_size(), projected.sums.shape[0]),
        **projected_args(projected),
    )
    return q


def aot() -> Iterator[Setting]:
    """The settings in use; see ``triton_launch.Setting``."""
    ints = dict.fromkeys(("num_heads", "num_kv_heads", "num_slots", "half"), "i32") | {"eps": "fp32"}
    ints |= dict.fromkeys(("positions_ptr", "slots_ptr"), "*i32")
    names = ("q_ptr", "cache_ptr", "cos_ptr", "sin_ptr", "q_norm_ptr", "k_norm_ptr")
    for dtype in DTYPES:
        for name, signature, constexprs in projected_settings(dtype):
            for half in (32, 64, 128):
                options = warps_for(2 * half, 4 if dtype == "fp32" else 2, constexprs["SPLITS"])
                warps = options.pop("num_warps")
                flags = constexprs | {"HAS_NORM": half == 64, "HALF": half} | options
                types = dict.fromkeys(names, f"*{dtype}") | ints | signature
                yield f"{dtype}-{name}-{half}", rope_kv_write_kernel, types, flags, warps, 3, True
