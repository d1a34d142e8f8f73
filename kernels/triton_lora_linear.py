"""The low-rank path of training, forward and backward, float32 whatever the base's dtype.

    low        = x A^T                                     [rows, parts * rank], saved
    out_p     += scale * low_p B_p^T                       in place, rounded once
    d_low_p    = scale * d_out_p B_p                       [rows, parts * rank]
    d_x        = d_low A,   d_A = d_low^T x,   d_B_p = scale * d_out_p^T low_p

These are three kernels, each over all parts (linear layers) of a fused projection at once: ``_shrink`` (low, d_low),
``_expand`` (out, d_x) and ``_outer`` (d_A, d_B). A part is a weight W [rank, width] of any strides and a range of
columns of the wide matrix. Sums are in a fixed order, so equal inputs give equal gradients.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, product
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

SPLIT = 1024  # features of one partial sum of low
BLOCK_M = 32
BLOCK_N = 64
STAGES = 3
MAX_PARTS = 3


@triton.jit
def _pick(part, value0, value1, value2):
    """The value of a part."""
    return tl.where(part == 0, value0, tl.where(part == 1, value1, value2))


@triton.jit
def _locate(block, width0, width1, BLOCK_N: tl.constexpr):
    """Which part a block of columns is of, and its first column within the part."""
    blocks0, blocks1 = tl.cdiv(width0, BLOCK_N), tl.cdiv(width1, BLOCK_N)
    part = (block >= blocks0).to(tl.int32) + (block >= blocks0 + blocks1).to(tl.int32)
    return part, (block - _pick(part, 0, blocks0, blocks0 + blocks1)) * BLOCK_N


@triton.jit
def _shrink(
    wide, low, w0, w1, w2, start0, start1, start2, width0, width1, width2,
    wide_stride, rank_stride, column_stride, num_rows, rank, low_stride, low_split_stride, scale,
    SPLIT: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """low[split, :, ranks of part] = scale * wide[:, split's columns of part] W^T.

    Grid: (row blocks, parts * rank blocks, splits).
    """
    rank_blocks = tl.cdiv(rank, BLOCK_R)
    part, split = tl.program_id(1) // rank_blocks, tl.program_id(2)
    w, width = _pick(part, w0, w1, w2), _pick(part, width0, width1, width2)
    first_row = tl.program_id(0) * BLOCK_M
    m, k = first_row + tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_K)
    r = tl.program_id(1) % rank_blocks * BLOCK_R + tl.arange(0, BLOCK_R)
    wide += first_row.to(tl.int64) * wide_stride + _pick(part, start0, start1, start2)
    acc = tl.zeros((BLOCK_M, BLOCK_R), tl.float32)
    for k0 in range(split * SPLIT, tl.minimum(split * SPLIT + SPLIT, width), BLOCK_K):
        n = k0 + k
        wide_at = wide + tl.arange(0, BLOCK_M)[:, None] * wide_stride + n[None, :]
        wide_tile = tl.load(wide_at, mask=(m[:, None] < num_rows) & (n[None, :] < width), other=0.0).to(tl.float32)
        w_at = w + r[None, :] * rank_stride + n[:, None] * column_stride
        w_tile = tl.load(w_at, mask=(r[None, :] < rank) & (n[:, None] < width), other=0.0)
        acc = tl.dot(wide_tile, w_tile, acc, input_precision=PRECISION)
    low += split.to(tl.int64) * low_split_stride + first_row.to(tl.int64) * low_stride + part * rank
    low_at = low + tl.arange(0, BLOCK_M)[:, None] * low_stride + r[None, :]
    tl.store(low_at, acc * scale, mask=(m[:, None] < num_rows) & (r[None, :] < rank))


@triton.jit
def _expand(
    wide, low, w0, w1, w2, start0, start1, start2, width0, width1, width2,
    wide_stride, rank_stride, column_stride, num_rows, rank, low_stride, scale,
    ADD: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_R: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """wide[:, columns of part] (+)= scale * low[:, ranks of part] W. Grid: (column blocks of all parts, row blocks)."""
    part, first_column = _locate(tl.program_id(0), width0, width1, BLOCK_N)
    w, width = _pick(part, w0, w1, w2), _pick(part, width0, width1, width2)
    first_row, rows = tl.program_id(1) * BLOCK_M, tl.arange(0, BLOCK_M)
    n, ranks = first_column + tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_R)
    inside = (first_row + rows < num_rows)[:, None]
    low += first_row.to(tl.int64) * low_stride + part * rank
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for r0 in range(0, rank, BLOCK_R):
        r = r0 + ranks
        low_at = low + rows[:, None] * low_stride + r[None, :]
        low_tile = tl.load(low_at, mask=inside & (r[None, :] < rank), other=0.0)
        w_at = w + r[:, None] * rank_stride + n[None, :] * column_stride
        w_tile = tl.load(w_at, mask=(r[:, None] < rank) & (n[None, :] < width), other=0.0)
        acc = tl.dot(low_tile, w_tile, acc, input_precision=PRECISION)
    inside = inside & (n[None, :] < width)
    wide += first_row.to(tl.int64) * wide_stride + _pick(part, start0, start1, start2)
    wide_at = wide + rows[:, None] * wide_stride + n[None, :]
    acc *= scale
    if ADD:
        acc += tl.load(wide_at, mask=inside, other=0.0).to(tl.float32)
    tl.store(wide_at, acc.to(wide.dtype.element_ty), mask=inside)


@triton.jit
def _outer(
    wide, low, d0, d1, d2, start0, start1, start2, width0, width1, width2,
    wide_stride, rank_stride, column_stride, num_rows, rank, low_stride, scale,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_R: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """``d`` of part = scale * low[:, ranks of part]^T wide[:, columns of part].

    Grid: (column blocks of all parts, rank blocks).
    """
    part, first_column = _locate(tl.program_id(0), width0, width1, BLOCK_N)
    d, width = _pick(part, d0, d1, d2), _pick(part, width0, width1, width2)
    rows, n = tl.arange(0, BLOCK_M), first_column + tl.arange(0, BLOCK_N)
    r = tl.program_id(1) * BLOCK_R + tl.arange(0, BLOCK_R)
    wide += _pick(part, start0, start1, start2)
    low += part * rank
    acc = tl.zeros((BLOCK_R, BLOCK_N), tl.float32)
    for m0 in range(0, num_rows, BLOCK_M):
        m = (m0 + rows).to(tl.int64)
        low_at = low + m[None, :] * low_stride + r[:, None]
        low_tile = tl.load(low_at, mask=(m[None, :] < num_rows) & (r[:, None] < rank), other=0.0)
        wide_at = wide + m[:, None] * wide_stride + n[None, :]
        wide_tile = tl.load(wide_at, mask=(m[:, None] < num_rows) & (n[None, :] < width), other=0.0).to(tl.float32)
        acc = tl.dot(low_tile, wide_tile, acc, input_precision=PRECISION)
    d_at = d + r[:, None] * rank_stride + n[None, :] * column_stride
    tl.store(d_at, acc * scale, mask=(r[:, None] < rank) & (n[None, :] < width))


@dataclass(frozen=True)
class _Parts:
    """Weights [rank, width] of equal strides, float32, and the first column of each in the wide matrix."""

    weights: Sequence[Tensor]
    starts: Sequence[int]

    @property
    def rank(self) -> int:
        return self.weights[0].shape[0]

    @property
    def widths(self) -> list[int]:
        return [weight.shape[1] for weight in self.weights]

    @property
    def num_blocks(self) -> int:
        """Column blocks of all parts."""
        return sum(triton.cdiv(width, BLOCK_N) for width in self.widths)

    def arguments(self) -> tuple[Any, ...]:
        """Weights, starts and widths as the kernels take them."""
        more = MAX_PARTS - len(self.weights)
        zeros = [0] * more
        return (*self.weights, *[self.weights[0]] * more, *self.starts, *zeros, *self.widths, *zeros)


def _shrunk(wide: Tensor, parts: _Parts, scale: float) -> Tensor:
    """``scale * wide_p W_p^T`` of every part, float32 [rows, parts * rank]."""
    num_rows, num_ranks = len(wide), len(parts.weights) * parts.rank
    splits, block_r = triton.cdiv(max(parts.widths), SPLIT), _block_r(parts.rank)
    low = torch.empty(splits, num_rows, num_ranks, dtype=torch.float32, device=wide.device)
    if num_rows:
        grid = triton.cdiv(num_rows, BLOCK_M), len(parts.weights) * triton.cdiv(parts.rank, block_r), splits
        kernel: Any = _shrink[grid]
        kernel(
            wide, low, *parts.arguments(), wide.stride(0), *parts.weights[0].stride(), num_rows, parts.rank,
            num_ranks, low.stride(0), scale, SPLIT=SPLIT, BLOCK_M=BLOCK_M, BLOCK_R=block_r,
            BLOCK_K=_block_k(wide.element_size()), PRECISION=_precision(), num_warps=4, num_stages=STAGES,
        )  # fmt: skip
    return low[0] if splits == 1 else low.sum(0)


def _expanded(wide: Tensor, low: Tensor, parts: _Parts, scale: float, add: bool) -> Tensor:
    """Write or add ``scale * low_p W_p`` to every part's columns of ``wide``, in place."""
    num_rows = len(wide)
    if num_rows:
        kernel: Any = _expand[parts.num_blocks, triton.cdiv(num_rows, BLOCK_M)]
        kernel(
            wide, low, *parts.arguments(), wide.stride(0), *parts.weights[0].stride(), num_rows, parts.rank,
            low.stride(0), scale, ADD=add, BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N, BLOCK_R=_block_r(parts.rank),
            PRECISION=_precision(), num_warps=4, num_stages=STAGES,
        )  # fmt: skip
    return wide


def _outer_products(wide: Tensor, low: Tensor, into: _Parts, scale: float) -> None:
    """Write ``scale * low_p^T wide_p`` into the parts."""
    block_r = _block_r(into.rank)
    kernel: Any = _outer[into.num_blocks, triton.cdiv(into.rank, block_r)]
    kernel(
        wide, low, *into.arguments(), wide.stride(0), *into.weights[0].stride(), len(wide), into.rank, low.stride(0),
        scale, BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N, BLOCK_R=block_r, PRECISION=_precision(), num_warps=4,
        num_stages=STAGES,
    )  # fmt: skip


class _LoraLinear(torch.autograd.Function):
    """``out`` (in place) and its gradients; saves ``x`` and ``low``."""

    @staticmethod
    def forward(ctx: Any, out: Tensor, x: Tensor, a: Tensor, scale: float, starts: list[int], *b: Tensor) -> Tensor:
        low = _shrunk(x, _Parts([a], [0]), 1.0)
        _expanded(out, low, _Parts([weight.T for weight in b], starts), scale, add=True)
        ctx.save_for_backward(x, low, a, *b)
        ctx.scale, ctx.starts = scale, starts
        ctx.mark_dirty(out)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        grad = grads[0] if grads[0].stride(1) == 1 else grads[0].contiguous()
        x, low, a, *b = ctx.saved_tensors
        d_low = _shrunk(grad, _Parts([weight.T for weight in b], ctx.starts), ctx.scale)
        d_x = None
        if ctx.needs_input_grad[1]:
            d_x = _expanded(torch.empty_like(x), d_low, _Parts([a], [0]), 1.0, add=False)
        d_a, d_b = torch.empty_like(a), [torch.empty_like(weight) for weight in b]
        _outer_products(x, d_low, _Parts([d_a], [0]), 1.0)
        _outer_products(grad, low, _Parts([weight.T for weight in d_b], ctx.starts), ctx.scale)
        return grads[0], d_x, d_a, None, None, *d_b


def lora_linear(
    out: Tensor, x: Tensor, a: Tensor, b: Sequence[Tensor | None], widths: Sequence[int], scale: float
) -> Tensor:
    """See :func:`alorakit.kernels.ops.lora_linear`; ``out`` is changed in place and returned."""
    assert out.stride(1) == 1 and a.is_contiguous()
    starts = [start for start, weight in zip(accumulate(widths, initial=0), b, strict=False) if weight is not None]
    adapted = [weight for weight in b if weight is not None]
    assert all(weight.is_contiguous() for weight in adapted) and len(adapted) <= MAX_PARTS
    x = x if x.stride(1) == 1 else x.contiguous()
    result: Tensor = _LoraLinear.apply(out, x, a, scale, starts, *adapted)  # type: ignore[no-untyped-call]
    return result


def _precision() -> str:
    """Three TF32 products are as exact as one in float32; one, where torch's own products are allowed to be so."""
    return "tf32x3" if torch.get_float32_matmul_precision() == "highest" else "tf32"


def _block_r(rank: int) -> int:
    return 16 if rank <= 16 else 32


def _block_k(itemsize: int) -> int:
    return 128 // itemsize


def aot() -> Iterator[tuple[str, Any, dict[str, str], dict[str, Any], int, int, bool]]:
    """Every configuration in use: (name, kernel, signature, constexprs, num_warps, num_stages, is_decode).

    float16 is compiled as bfloat16 is; weights are an A, or a B, whose ranks are neighbours in memory.
    """
    for (dtype, itemsize), block_r, weight in product({"bf16": 2, "fp32": 4}.items(), (16, 32), "ab"):
        strides = {"rank_stride": 1} if weight == "b" else {"column_stride": 1}
        shared = {"BLOCK_M": BLOCK_M, "BLOCK_R": block_r, "PRECISION": "tf32x3", **strides}
        wide, name = {**shared, "BLOCK_N": BLOCK_N}, f"{weight}-rank{block_r}"
        shrink = {**shared, "SPLIT": SPLIT, "BLOCK_K": _block_k(itemsize)}
        yield f"{dtype}-shrink-{name}", _shrink, _signature(_shrink, dtype, shrink), shrink, 4, STAGES, False
        expand = {**wide, "ADD": weight == "b"}
        yield f"{dtype}-expand-{name}", _expand, _signature(_expand, dtype, expand), expand, 4, STAGES, False
        yield f"{dtype}-outer-{name}", _outer, _signature(_outer, dtype, wide), wide, 4, STAGES, False


def _signature(kernel: Any, dtype: str, constexprs: dict[str, Any]) -> dict[str, str]:
    types = {"wide": f"*{dtype}", "low": "*fp32", "scale": "fp32"}
    types |= {f"{name}{part}": "*fp32" for name in "wd" for part in range(MAX_PARTS)}
    types["num_rows"] = "i32"
    return {name: types.get(name, "i32:16") for name in kernel.arg_names if name not in constexprs}
