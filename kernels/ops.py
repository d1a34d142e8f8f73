"""The one door to the kernels: signatures, shapes and dispatch. Nothing else is imported from ``kernels``.

Every op has a float32 specification of the same name in :mod:`alorakit.kernels.reference`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from alorakit.kernels import lora, torch_ops
from alorakit.kernels.lora import LoraWindow as LoraWindow
from alorakit.kernels.lora_stack import LoraStack as LoraStack


@dataclass(frozen=True)
class AttentionSpan:
    """A few rows of one sequence and the keys they attend to.

    Attributes:
        start: First row of the span in the batch.
        end: One past its last row.
        runs: KV slots in position order, as (first, one past last) pairs of consecutive slots.
        mask: Additive [group * rows, kv_len] in the compute dtype, group = num_heads / num_kv_heads, rows
            repeated for each head of a group; None when every row sees every key.
    """

    start: int
    end: int
    runs: tuple[tuple[int, int], ...]
    mask: Tensor | None


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``x / sqrt(mean(x^2) + eps) * weight`` over the last dimension (Zhang & Sennrich 2019).

    Args:
        x: [rows, hidden].
        weight: [hidden].
        eps: Added to the mean square.

    Returns:
        [rows, hidden], dtype of ``x``.
    """
    return torch_ops.rms_norm(x, weight, eps)


def rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding, halves convention: ``x * cos + rotate_half(x) * sin`` (Su et al. 2021).

    Args:
        x: [rows, heads, head_dim].
        cos: [rows, 1, head_dim].
        sin: [rows, 1, head_dim], its first half negated so that a roll replaces rotate_half.

    Returns:
        [rows, heads, head_dim].
    """
    return torch_ops.rope(x, cos, sin)


def silu_mul(x: Tensor) -> Tensor:
    """``silu(gate) * up`` of a fused gate/up projection [rows, 2 * intermediate] -> [rows, intermediate]."""
    return torch_ops.silu_mul(x)


def lora_delta(out: Tensor, x: Tensor, stack: LoraStack, windows: Iterable[LoraWindow]) -> None:
    """Add to every adapted row of ``out``, in place, its adapter's ``(x A) B``.

    Semantics, for a row r of slot s and a tile t, with p = ``stack.tile_parts[t]`` and R = rank::

        out[r, columns of t] += (x[r] @ stack.a[s, :, p * R : (p + 1) * R]) @ stack.b[s, t]

    Args:
        out: [rows, out_features], modified in place.
        x: [rows, in_features], dtype of ``out``.
        stack: The adapters' weights for this projection; dtypes as :func:`lora_dtypes` says.
        windows: From :func:`lora_windows`: which rows belong to which slots.
    """
    lora.lora_delta(out, x, stack, windows)


def lora_windows(
    segments: Iterable[tuple[int, int, int]], slot_bytes: int, device: torch.device
) -> tuple[LoraWindow, ...]:
    """Plan :func:`lora_delta` for a batch, once for all its layers and projections.

    Args:
        segments: (first row, one past last row, slot); none empty, no row in two of them. Other rows get no delta.
        slot_bytes: Size of a slot's weights for one projection.
        device: Where the batch is.
    """
    return lora.plan_windows(segments, slot_bytes, device)


def lora_dtypes(device: torch.device, dtype: torch.dtype, hidden_size: int) -> tuple[torch.dtype, ...]:
    """In which dtypes a model that computes in ``dtype`` keeps adapters' weights on the device: its own first.

    Small models on a CPU have them in float32 too, for products of few rows.
    """
    both = device.type == "cpu" and dtype != torch.float32 and hidden_size < lora.WIDE
    return (dtype, torch.float32) if both else (dtype,)


def kv_write(cache: Tensor, values: Tensor, writes: Sequence[tuple[int, int, int]]) -> None:
    """Write new keys (or values) into their slots of the paged cache, in place.

    Args:
        cache: [num_kv_heads, num_slots, head_dim], modified in place.
        values: [rows, num_kv_heads, head_dim].
        writes: (first row, one past last row, first slot); rows of one entry fill consecutive slots.
    """
    torch_ops.kv_write(cache, values, writes)


def paged_attention(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, spans: Sequence[AttentionSpan], scale: float
) -> Tensor:
    """Softmax attention of each span's rows over its sequence's slots of the paged cache.

    Args:
        q: [rows, num_heads, head_dim]; the spans cover every row once, in order.
        k_cache: [num_kv_heads, num_slots, head_dim].
        v_cache: Like ``k_cache``.
        spans: See :class:`AttentionSpan`.
        scale: Multiplies the scores (``head_dim ** -0.5`` for most models).

    Returns:
        [rows, num_heads * head_dim].
    """
    parts = [
        torch_ops.attend(
            q[span.start : span.end],
            torch_ops.gather(k_cache, span.runs),
            torch_ops.gather(v_cache, span.runs),
            span.mask,
            scale,
        )
        for span in spans
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Differentiable attention of one sequence's rows over keys that are not paged (training).

    Args:
        q: [rows, num_heads, head_dim].
        k: [num_kv_heads, kv_len, head_dim].
        v: Like ``k``.
        mask: Additive [group * rows, kv_len] as in :class:`AttentionSpan`, or None.
        scale: Multiplies the scores.

    Returns:
        [rows, num_heads * head_dim].
    """
    return torch_ops.attend(q, k, v, mask, scale)


def pack_weight(weight: Tensor) -> Tensor:
    """``weight`` [out, in] (bfloat16, CPU) in oneDNN's blocked layout, for :func:`linear_packed`."""
    return torch_ops.pack_weight(weight)


def linear_packed(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    """``x W^T + bias`` with a weight from :func:`pack_weight`; not differentiable. x: [rows, in] -> [rows, out]."""
    return torch_ops.linear_packed(x, packed, bias)


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether :func:`pack_weight` works and pays on this device and dtype."""
    return torch_ops.can_pack(device, dtype)
