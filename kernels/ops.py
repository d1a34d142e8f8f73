"""The one door to the kernels: signatures, shapes and dispatch. Nothing else is imported from ``kernels``.

What an op computes is specified in :mod:`alorakit.kernels.reference` in float32, under its own name; ``linear_packed``
is ``linear`` there, and ``kv_write`` copies.
"""

import importlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from alorakit.kernels import lora, torch_ops, torch_segments
from alorakit.kernels import native_layers as native
from alorakit.kernels.attention_tiles import TILE_CLASSES, Tile, TileClass, TilePlan, TileTensors
from alorakit.kernels.attention_types import AttentionPlan, AttentionSpan, BlockSpan, Runs, SharedSpan
from alorakit.kernels.backend import BackendError, backend_for, use_backend
from alorakit.kernels.lora import LoraWindow
from alorakit.kernels.lora_rows import ROW_BLOCK, Lora, LoraRows, Projected
from alorakit.kernels.lora_stack import LoraStack
from alorakit.kernels.lora_table import LoraTable, lora_block_m, lora_tiles
from alorakit.kernels.segment_types import RowBlock, SegmentPlan
from alorakit.kernels.torch_attention import TorchPagedAttention

if TYPE_CHECKING:
    from alorakit.kernels import fused as fused

__all__ = [
    "ROW_BLOCK",
    "TILE_CLASSES",
    "AttentionPlan",
    "AttentionSpan",
    "BackendError",
    "BlockSpan",
    "Lora",
    "LoraRows",
    "LoraStack",
    "LoraTable",
    "LoraWindow",
    "PagedAttention",
    "Projected",
    "RowBlock",
    "Runs",
    "SegmentPlan",
    "SharedSpan",
    "Tile",
    "TileClass",
    "TilePlan",
    "TileTensors",
    "backend_for",
    "can_pack",
    "fused",
    "kv_write",
    "linear_cross_entropy",
    "linear_packed",
    "linear_wide",
    "lora_block_m",
    "lora_delta",
    "lora_dtypes",
    "lora_linear",
    "lora_tiles",
    "lora_windows",
    "native",
    "pack_weight",
    "paged_attention",
    "rms_norm",
    "rope",
    "segment_attention",
    "silu_mul",
    "use_backend",
]


def __getattr__(name: str) -> Any:
    """``ops.fused``: the Triton path's kernels, imported when first asked for: elsewhere Triton need not be there."""
    if name == "fused":
        return importlib.import_module("alorakit.kernels.fused")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class PagedAttention(Protocol):
    """What :func:`paged_attention` returns."""

    def __call__(self, layer: int, q: Tensor) -> Tensor:
        """Attend in layer ``layer`` with ``q`` [rows, num_heads, head_dim] -> [rows, num_heads * head_dim]."""
        ...


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``x / sqrt(mean(x^2) + eps) * weight`` over the last dimension (Zhang & Sennrich 2019).

    Args:
        x: [rows, hidden], or [rows, heads, head_dim] to norm each head; need not be contiguous.
        weight: [hidden] or [head_dim].
        eps: Added to the mean square.

    Returns:
        The shape and dtype of ``x``.
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


def kv_write(cache: Tensor, k: Tensor, v: Tensor, slots: Tensor, runs: Sequence[tuple[int, int]]) -> None:
    """Write new keys and values into their slots of one layer's paged cache, in place.

    Args:
        cache: [2, num_kv_heads, num_slots, head_dim], modified in place; keys, then values.
        k: [rows, num_kv_heads, head_dim].
        v: Like ``k``.
        slots: int64 [rows].
        runs: The same slots in row order, as (first, one past last) pairs of consecutive slots.
    """
    torch_ops.kv_write(cache, k, v, slots, runs)


def paged_attention(cache: Tensor, plan: AttentionPlan, scale: float) -> PagedAttention:
    """Prepare a step's softmax attention over the paged cache; what all layers have in common is done here, once.

    Args:
        cache: [layers, 2, num_kv_heads, num_slots, head_dim]; keys, then values.
        plan: Which rows attend to which slots.
        scale: Multiplies the scores (``head_dim ** -0.5`` for most models).

    Returns:
        A function of the layer's index and ``q`` [rows, num_heads, head_dim] that returns
        [rows, num_heads * head_dim]. The rows' own keys and values must be in the cache by then.
    """
    return TorchPagedAttention(cache, plan, scale)


def segment_attention(q: Tensor, k: Tensor, v: Tensor, kept: Tensor, plan: SegmentPlan, scale: float) -> Tensor:
    """Differentiable attention of one sequence's rows over kept keys and their own (training).

    Args:
        q: [rows, num_heads, head_dim].
        k: The rows' own, [rows, num_kv_heads, head_dim].
        v: Like ``k``.
        kept: Keys and values of the tokens before, [2, num_kv_heads, num_kept, head_dim]; no gradient flows to them.
        plan: Which keys each row sees.
        scale: Multiplies the scores.

    Returns:
        [rows, num_heads * head_dim].
    """
    return torch_segments.segment_attention(q, k, v, kept, plan, scale)


def lora_linear(
    out: Tensor, x: Tensor, a: Tensor, b: Sequence[Tensor | None], widths: Sequence[int], scale: float
) -> Tensor:
    """``out_p + scale * B_p (A_p x)`` for every adapted part p of a fused projection; differentiable (training).

    The low-rank path is float32 whatever the dtypes of ``x`` and ``out``; the sum is rounded once.

    Args:
        out: [rows, sum of widths], the base projection's output; may be changed in place.
        x: [rows, in_features], its input, dropout already applied.
        a: float32 [adapted parts * rank, in_features]; the parts' A one below the other.
        b: For each part its B, float32 [width, rank], or None where it is not adapted; at least one is.
        widths: out_features of every part.
        scale: Factor of the delta.

    Returns:
        [rows, sum of widths], dtype of ``out``; gradients flow to ``out``, ``x``, ``a`` and ``b``.
    """
    if backend_for(x.device) == "triton":
        from alorakit.kernels import triton_lora_linear

        return triton_lora_linear.lora_linear(out, x, a, b, widths, scale)
    return torch_ops.lora_linear(out, x, a, b, widths, scale)


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, rows: Tensor, where: Tensor, targets: Tensor, divisor: float
) -> Tensor:
    """Log-probabilities of given tokens at given rows; differentiable in ``hidden``, not in ``weight`` (training).

    Semantics::

        logits = hidden[rows] @ weight.T / divisor
        result = logits[where, targets] - logsumexp(logits)[where]

    Args:
        hidden: [num_rows, hidden_size].
        weight: [vocab_size, hidden_size], dtype of ``hidden``; frozen.
        rows: int64 [n], the rows that are read, each once.
        where: int64 [m], indices into ``rows``.
        targets: int64 [m], the tokens.
        divisor: Divides the logits.

    Returns:
        float32 [m], in nats.
    """
    if backend_for(hidden.device) == "triton":
        from alorakit.kernels import triton_cross_entropy

        return triton_cross_entropy.linear_cross_entropy(hidden, weight, rows[where], targets, divisor)
    return torch_ops.linear_cross_entropy(hidden, weight, rows, where, targets, divisor)


def pack_weight(weight: Tensor) -> Tensor:
    """``weight`` [out, in] (bfloat16, CPU) in oneDNN's blocked layout, for :func:`linear_packed`."""
    return torch_ops.pack_weight(weight)


def linear_packed(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    """``x W^T + bias`` with a weight from :func:`pack_weight`; not differentiable. x: [rows, in] -> [rows, out]."""
    return torch_ops.linear_packed(x, packed, bias)


def linear_wide(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``x W^T + bias``, multiplied in float32 and rounded to ``x``'s dtype; differentiable in ``x`` alone (training).

    Args:
        x: [rows, in_features].
        weight: [out_features, in_features], frozen.
        bias: [out_features] or None, frozen.
    """
    return torch_ops.linear_wide(x, weight, bias)


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether :func:`pack_weight` works and pays on this device and dtype."""
    return torch_ops.can_pack(device, dtype)
