"""Log-probabilities of given tokens straight from hidden states: logits live in registers, a tile at a time.

forward    every program: logits of some rows and BLOCK_V tokens -> their log-sum-exp, and the target's logit if
           it is among them; the partial log-sum-exps [rows, vocabulary blocks] are merged by torch
backward   logits once more -> one-hot - softmax, rounded to the compute dtype as autograd's would be, for
           ROWS_AT_ONCE rows; its product with the weight is the gradient of the hidden states
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK_V = 128  # tokens of one program
ROWS_AT_ONCE = 256  # of [rows, vocab_size] in the backward pass: reading the weight costs as much as the product
STAGES = 4


@triton.jit
def _logits(
    hidden, weight, index, hidden_stride, weight_stride, num_rows, vocab_size, hidden_size, divisor,
    BLOCK_M: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Logits of the program's rows and tokens, -inf beyond the vocabulary; also its rows and tokens."""
    row, first_token = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M), tl.program_id(1) * BLOCK_V
    offset, token = tl.arange(0, BLOCK_V), first_token + tl.arange(0, BLOCK_V)
    hidden_row = tl.load(index + row, mask=row < num_rows, other=0)
    hidden_at, weight_at = hidden + hidden_row * hidden_stride, weight + first_token.to(tl.int64) * weight_stride
    acc = tl.zeros((BLOCK_M, BLOCK_V), tl.float32)
    for k0 in range(0, hidden_size, BLOCK_K):
        k = k0 + tl.arange(0, BLOCK_K)
        valid = (row < num_rows)[:, None] & (k < hidden_size)[None, :]
        hidden_tile = tl.load(hidden_at[:, None] + k[None, :], mask=valid, other=0.0)
        valid = (token < vocab_size)[None, :] & (k < hidden_size)[:, None]
        weight_tile = tl.load(weight_at + offset[None, :] * weight_stride + k[:, None], mask=valid, other=0.0)
        acc = tl.dot(hidden_tile, weight_tile, acc, input_precision="tf32x3")
    return tl.where((token < vocab_size)[None, :], acc / divisor, float("-inf")), row, token


@triton.jit
def _forward(
    hidden, weight, index, targets, partial, picked, hidden_stride, weight_stride, num_rows, vocab_size, hidden_size,
    num_blocks, divisor, BLOCK_M: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Grid: (row blocks, vocabulary blocks)."""
    logits, row, token = _logits(
        hidden, weight, index, hidden_stride, weight_stride, num_rows, vocab_size, hidden_size, divisor,
        BLOCK_M, BLOCK_V, BLOCK_K,
    )  # fmt: skip
    largest = tl.max(logits, 1)
    total = tl.sum(tl.exp(logits - largest[:, None]), 1)
    partial_at = partial + row.to(tl.int64) * num_blocks + tl.program_id(1)
    tl.store(partial_at, largest + tl.log(total), mask=row < num_rows)
    target = tl.load(targets + row, mask=row < num_rows, other=-1)
    logit = tl.sum(tl.where(target[:, None] == token[None, :], logits, 0.0), 1)
    here = target // BLOCK_V == tl.program_id(1)
    tl.store(picked + row, logit, mask=(row < num_rows) & here)


@triton.jit
def _backward(
    hidden, weight, index, targets, log_sum, d_logits, hidden_stride, weight_stride, num_rows, vocab_size, hidden_size,
    divisor, BLOCK_M: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """d_logits [num_rows, vocab_size] = one-hot - softmax. Grid: (row blocks, vocabulary blocks)."""
    logits, row, token = _logits(
        hidden, weight, index, hidden_stride, weight_stride, num_rows, vocab_size, hidden_size, divisor,
        BLOCK_M, BLOCK_V, BLOCK_K,
    )  # fmt: skip
    valid = row < num_rows
    target, lse = tl.load(targets + row, mask=valid, other=-1), tl.load(log_sum + row, mask=valid, other=0.0)
    gradient = (target[:, None] == token[None, :]).to(tl.float32) - tl.exp(logits - lse[:, None])
    at = d_logits + row.to(tl.int64)[:, None] * vocab_size + token[None, :]
    tl.store(at, gradient.to(d_logits.dtype.element_ty), mask=valid[:, None] & (token < vocab_size)[None, :])


class _LinearCrossEntropy(torch.autograd.Function):
    """Saves nothing of the vocabulary's size."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, index: Tensor, targets: Tensor, divisor: float) -> Tensor:
        num_blocks, num_rows = triton.cdiv(len(weight), BLOCK_V), len(index)
        partial = torch.empty(num_rows, num_blocks, dtype=torch.float32, device=hidden.device)
        picked = torch.empty(num_rows, dtype=torch.float32, device=hidden.device)
        kernel: Any = _forward[_grid(num_rows, len(weight))]
        kernel(
            hidden, weight, index, targets, partial, picked, hidden.stride(0), weight.stride(0), num_rows,
            *weight.shape, num_blocks, divisor, **_settings(num_rows, hidden.element_size()),
        )  # fmt: skip
        log_sum = partial.logsumexp(1)
        ctx.save_for_backward(hidden, weight, index, targets, log_sum)
        ctx.divisor = divisor
        return picked - log_sum

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        hidden, weight, index, targets, log_sum = ctx.saved_tensors
        d_hidden = torch.zeros_like(hidden)
        factors = (grads[0] / ctx.divisor)[:, None]
        for first in range(0, len(index), ROWS_AT_ONCE):
            rows = slice(first, first + ROWS_AT_ONCE)
            num_rows = len(index[rows])
            d_logits = torch.empty(num_rows, len(weight), dtype=hidden.dtype, device=hidden.device)
            kernel: Any = _backward[_grid(num_rows, len(weight))]
            kernel(
                hidden, weight, index[rows], targets[rows], log_sum[rows], d_logits, hidden.stride(0), weight.stride(0),
                num_rows, *weight.shape, ctx.divisor, **_settings(num_rows, hidden.element_size()),
            )  # fmt: skip
            # The factors come last, for a small one would be lost in d_logits of float16.
            d_rows = torch.mm(d_logits, weight).float() * factors[rows]
            d_hidden.index_add_(0, index[rows], d_rows.to(hidden.dtype))
        return d_hidden, None, None, None, None


def linear_cross_entropy(hidden: Tensor, weight: Tensor, index: Tensor, targets: Tensor, divisor: float) -> Tensor:
    """Log-probability of ``targets[i]`` after row ``index[i]``; see :func:`alorakit.kernels.ops.linear_cross_entropy`.

    A row asked for several times is computed as often: candidates that share a row are few, and share its tile.
    """
    assert not weight.requires_grad and weight.stride(1) == 1 and hidden.dtype == weight.dtype
    if not len(index):
        return hidden.sum() * torch.zeros(0, device=hidden.device)
    hidden = hidden if hidden.stride(1) == 1 else hidden.contiguous()
    result: Tensor = _LinearCrossEntropy.apply(hidden, weight, index, targets, divisor)  # type: ignore[no-untyped-call]
    return result


def _grid(num_rows: int, vocab_size: int) -> tuple[int, int]:
    """Row blocks vary fastest, so that a tile of the weight is read once."""
    return triton.cdiv(num_rows, _block_m(num_rows)), triton.cdiv(vocab_size, BLOCK_V)


def _block_m(num_rows: int) -> int:
    return 16 if num_rows <= 16 else 32 if num_rows <= 32 else 64


def _settings(num_rows: int, itemsize: int) -> dict[str, int]:
    tiles = {"BLOCK_M": _block_m(num_rows), "BLOCK_V": BLOCK_V, "BLOCK_K": 128 // itemsize}
    return {**tiles, "num_warps": 8 if tiles["BLOCK_M"] == 64 else 4, "num_stages": STAGES}


def aot() -> Iterator[tuple[str, Any, dict[str, str], dict[str, Any], int, int, bool]]:
    """Every configuration in use: (name, kernel, signature, constexprs, num_warps, num_stages, is_decode).

    float16 is compiled as bfloat16 is.
    """
    for (dtype, itemsize), rows in product({"bf16": 2, "fp32": 4}.items(), (16, 32, 64)):
        tiles = _settings(rows, itemsize)
        warps, stages = tiles.pop("num_warps"), tiles.pop("num_stages")
        types = dict.fromkeys(("hidden", "weight", "d_logits"), f"*{dtype}") | {"divisor": "fp32"}
        types |= dict.fromkeys(("num_rows", "num_blocks"), "i32")
        types |= dict.fromkeys(("index", "targets"), "*i64") | dict.fromkeys(("partial", "picked", "log_sum"), "*fp32")
        for name, kernel in (("forward", _forward), ("backward", _backward)):
            signature = {arg: types.get(arg, "i32:16") for arg in kernel.arg_names if arg not in tiles}
            yield f"{dtype}-{name}-rows{rows}", kernel, signature, tiles, warps, stages, False
