"""Residual add and root-mean-square norm of whole rows: for prefill, where there are rows enough for the device."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from alorakit.kernels.triton_launch import DTYPES, Setting


@triton.jit
def add_rms_norm_kernel(
    x_ptr,
    delta_ptr,
    weight_ptr,
    out_ptr,
    h_ptr,
    width,
    scale,
    eps,
    BLOCK: tl.constexpr,
    HAS_DELTA: tl.constexpr,
):
    """One row; see :func:`add_rms_norm`."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    live = columns < width
    x = tl.load(x_ptr + row * width + columns, mask=live, other=0.0)
    if HAS_DELTA:
        delta = tl.load(delta_ptr + row * width + columns, mask=live, other=0.0).to(tl.float32)
        x = (x.to(tl.float32) + scale * delta).to(x_ptr.dtype.element_ty)
        tl.store(out_ptr + row * width + columns, x, mask=live)
    x = x.to(tl.float32)
    weight = tl.load(weight_ptr + columns, mask=live, other=0.0).to(tl.float32)
    h = x * tl.rsqrt(tl.sum(x * x, 0) / width + eps) * weight
    tl.store(h_ptr + row * width + columns, h.to(h_ptr.dtype.element_ty), mask=live)


def add_rms_norm(
    x: Tensor, delta: Tensor | None, weight: Tensor, eps: float, scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """``x + scale * delta``, and its norm.

    Args:
        x: [rows, hidden], contiguous.
        delta: Like ``x``; None: the norm of ``x`` itself.
        weight: [hidden].
        eps: Added to the mean square.
        scale: Factor of ``delta``.

    Returns:
        The sum (``x`` itself without a delta) and ``sum / sqrt(mean(sum^2) + eps) * weight``, both [rows, hidden].
    """
    rows, width = x.shape
    out, h = x if delta is None else torch.empty_like(x), torch.empty_like(x)
    if rows:
        block = triton.next_power_of_2(width)
        add_rms_norm_kernel[(rows,)](
            x,
            x if delta is None else delta,
            weight,
            out,
            h,
            width,
            scale,
            eps,
            BLOCK=block,
            HAS_DELTA=delta is not None,
            num_warps=4 if block <= 2048 else 8,
        )
    return out, h


def aot() -> Iterator[Setting]:
    """The settings in use; see ``triton_launch.Setting``."""
    for dtype in DTYPES:
        signature = dict.fromkeys(("x_ptr", "delta_ptr", "weight_ptr", "out_ptr", "h_ptr"), f"*{dtype}")
        signature |= {"width": "i32:16", "scale": "fp32", "eps": "fp32"}
        for block in (1024, 4096):
            constexprs = {"BLOCK": block, "HAS_DELTA": True}
            yield f"{dtype}-{block}", add_rms_norm_kernel, signature, constexprs, 4 if block <= 2048 else 8, 3, False
