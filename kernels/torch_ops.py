"""Every op in plain torch: what CPU and MPS run. Out of place unless the docstring says otherwise.

The functions are differentiable (training runs the same ones) except where they write into the KV cache.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Up to this many runs of slots are written by slice; an indexed copy costs as much as two or three of those.
FEW_RUNS = 3


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See :func:`alorakit.kernels.ops.rms_norm`."""
    hidden = x.shape[-1]
    if x.numel() == hidden and x.device.type == "cpu":
        # Torch has no fused norm of this kind for a CPU, but it has a layer norm, and with x and -x side by side the
        # mean is 0: one row of 576 takes 5 us instead of 9. With 8 rows it is no faster, with 1,024 slower.
        both = torch.cat([x, -x], -1)
        return torch.native_layer_norm(both, (2 * hidden,), torch.cat([weight, weight]), None, eps)[0][..., :hidden]
    return F.rms_norm(x, (hidden,), weight, eps)


def rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """See :func:`alorakit.kernels.ops.rope`."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)


def silu_mul(x: Tensor) -> Tensor:
    """See :func:`alorakit.kernels.ops.silu_mul`."""
    gate, up = x.chunk(2, dim=-1)
    return F.silu(gate) * up


def kv_write(cache: Tensor, k: Tensor, v: Tensor, slots: Tensor, runs: Sequence[tuple[int, int]]) -> None:
    """See :func:`alorakit.kernels.ops.kv_write`."""
    if len(runs) > FEW_RUNS:
        cache[0].index_copy_(1, slots, k.transpose(0, 1))
        cache[1].index_copy_(1, slots, v.transpose(0, 1))
        return
    row = 0
    for start, end in runs:
        cache[0, :, start:end] = k[row : row + end - start].transpose(0, 1)
        cache[1, :, start:end] = v[row : row + end - start].transpose(0, 1)
        row += end - start


def lora_linear(
    out: Tensor, x: Tensor, a: Tensor, b: Sequence[Tensor | None], widths: Sequence[int], scale: float
) -> Tensor:
    """See :func:`alorakit.kernels.ops.lora_linear`."""
    rank = a.shape[0] // sum(weight is not None for weight in b)
    low = iter(F.linear(x.float(), a).split(rank, dim=1))
    parts = [
        part if weight is None else (part + F.linear(next(low), weight) * scale).to(out.dtype)
        for part, weight in zip(out.split(list(widths), dim=1), b, strict=True)
    ]
    return torch.cat(parts, dim=1)


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, rows: Tensor, where: Tensor, targets: Tensor, divisor: float
) -> Tensor:
    """See :func:`alorakit.kernels.ops.linear_cross_entropy`."""
    wide = hidden.device.type == "cpu" and not can_pack(hidden.device, hidden.dtype) and hidden.dtype == torch.bfloat16
    logits = (linear_wide(hidden[rows], weight, None) if wide else F.linear(hidden[rows], weight)).float()
    logits = logits if divisor == 1.0 else logits / divisor
    return logits[where, targets] - logits.logsumexp(dim=-1)[where]


def linear_wide(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """See :func:`alorakit.kernels.ops.linear_wide`."""
    out: Tensor = _Wide.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return out


class _Wide(torch.autograd.Function):
    """Keeps the narrow weight for the backward pass, where autograd would keep the wide copy."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        out = F.linear(x.float(), weight.float(), None if bias is None else bias.float())
        return out.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor, None, None]:
        [weight] = ctx.saved_tensors
        return (d_out.float() @ weight.float()).to(d_out.dtype), None, None


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """See :func:`alorakit.kernels.ops.can_pack`."""
    if device.type != "cpu" or dtype != torch.bfloat16 or not torch.backends.mkldnn.is_available():
        return False
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def pack_weight(weight: Tensor) -> Tensor:
    """See :func:`alorakit.kernels.ops.pack_weight`."""
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, None)
    return packed


def linear_packed(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    """See :func:`alorakit.kernels.ops.linear_packed`."""
    out: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, packed, bias, "none", [], "")
    return out
