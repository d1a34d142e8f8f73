"""Attention of a sequence's rows over kept keys and their own, in plain torch, forward and backward.

    P = softmax(scale q [kept_k ; k]^T + mask)                 O  = P [kept_v ; v]
    dS = P * (dP - rowsum(dO * O)),  dP = dO [kept_v ; v]^T    dq = scale dS [kept_k ; k]
    dk = scale dS_own^T q,  dv = P_own^T dO                    (kept keys and values take no gradient)

On a CPU rows go in blocks, so that keys in the future are never multiplied, and P is computed again in the backward
pass. The formulas are those of FlashAttention (arXiv 2205.14135, appendix B.2).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from alorakit.kernels.segment_types import RowBlock, SegmentPlan

FLASH_ROWS = 128


def segment_attention(q: Tensor, k: Tensor, v: Tensor, kept: Tensor, plan: SegmentPlan, scale: float) -> Tensor:
    """See :func:`alorakit.kernels.ops.segment_attention`."""
    if q.device.type != "cpu":
        return _whole(q, k, v, kept, plan, scale)
    # A CPU without bfloat16 products multiplies that dtype 60 times more slowly than float32.
    if q.dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return _blocked(q.float(), k.float(), v.float(), kept.float(), plan, scale).to(q.dtype)
    return _blocked(q, k, v, kept, plan, scale)


def _flash(q: Tensor, k: Tensor, v: Tensor, kept: Tensor, scale: float) -> Tensor:
    """Torch's causal kernel; it wants as many rows as keys, so rows of zeros stand for the kept ones' own."""
    num_kept, group = kept.shape[2], q.shape[1] // k.shape[1]
    rows = torch.cat([q.new_zeros(num_kept, *q.shape[1:]), q]).transpose(0, 1)
    keys, values = (x.repeat_interleave(group, 0)[None] for x in (_joined(kept[0], k), _joined(kept[1], v)))
    out = F.scaled_dot_product_attention(rows[None], keys, values, is_causal=True, scale=scale)
    return out[0, :, num_kept:].transpose(0, 1).flatten(1)


def _blocked(q: Tensor, k: Tensor, v: Tensor, kept: Tensor, plan: SegmentPlan, scale: float) -> Tensor:
    # Forward alone, torch's kernel takes three quarters of the time; forward and backward together it gains nothing.
    if plan.causal and not torch.is_grad_enabled() and q.shape[0] >= max(FLASH_ROWS, 2 * plan.num_kept):
        return _flash(q, k, v, kept, scale)
    out: Tensor = _Blocked.apply(q, k, v, kept, plan, scale)  # type: ignore[no-untyped-call]
    return out


def _whole(q: Tensor, k: Tensor, v: Tensor, kept: Tensor, plan: SegmentPlan, scale: float) -> Tensor:
    """All rows at once, by torch's own kernels."""
    keys, values = torch.cat([kept[0], k.transpose(0, 1)], 1), torch.cat([kept[1], v.transpose(0, 1)], 1)
    group = q.shape[1] // k.shape[1]
    folded = _fold(q, k.shape[1])
    mask = plan.whole.to(q.device, q.dtype).repeat(group, 1)
    out = F.scaled_dot_product_attention(folded[None], keys[None], values[None], attn_mask=mask, scale=scale)
    return _unfold(out[0], q.shape[0]).flatten(1)


class _Blocked(torch.autograd.Function):
    """Block by block."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, kept: Tensor, plan: SegmentPlan, scale: float) -> Tensor:
        keys, values = _joined(kept[0], k), _joined(kept[1], v)
        out = torch.empty_like(q)
        for block in plan.blocks:
            rows, seen = slice(block.start, block.end), slice(block.first_key, plan.num_kept + block.end)
            probs = _probabilities(_fold(q[rows], k.shape[1]) * scale, keys[:, seen], block)
            out[rows] = _unfold(torch.bmm(probs, values[:, seen]), block.end - block.start)
        ctx.save_for_backward(q, k, v, kept, out)
        ctx.plan, ctx.scale = plan, scale
        return out.flatten(1)

    @staticmethod
    def backward(ctx: Any, d_flat: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, kept, out = ctx.saved_tensors
        plan, scale, kv_heads = ctx.plan, ctx.scale, k.shape[1]
        keys, values = _joined(kept[0], k), _joined(kept[1], v)
        d_out = d_flat.view(q.shape)
        delta = (d_out * out).sum(-1, keepdim=True)
        dq = torch.empty_like(q)
        # Sums over blocks, in float32: [kv_heads, rows, head_dim].
        dk, dv = (torch.zeros(kv_heads, k.shape[0], k.shape[2]) for _ in range(2))
        for block in plan.blocks:
            rows, seen = slice(block.start, block.end), slice(block.first_key, plan.num_kept + block.end)
            scaled, d_rows = _fold(q[rows], kv_heads) * scale, _fold(d_out[rows], kv_heads)
            probs = _probabilities(scaled, keys[:, seen], block)
            d_scores = torch.bmm(d_rows, values[:, seen].transpose(1, 2)).sub_(_fold(delta[rows], kv_heads)).mul_(probs)
            dq[rows] = _unfold(torch.bmm(d_scores, keys[:, seen]), block.end - block.start) * scale
            first = max(plan.num_kept - block.first_key, 0)  # column of the first own key
            own = slice(max(block.first_key - plan.num_kept, 0), block.end)
            dk[:, own] += torch.bmm(d_scores[:, :, first:].transpose(1, 2), scaled)
            dv[:, own] += torch.bmm(probs[:, :, first:].transpose(1, 2), d_rows)
        return dq, dk.transpose(0, 1).to(k.dtype), dv.transpose(0, 1).to(v.dtype), None, None, None


def _joined(kept: Tensor, own: Tensor) -> Tensor:
    """Kept [kv_heads, num_kept, head_dim] and own [rows, kv_heads, head_dim], one after the other, contiguous."""
    return torch.cat([kept, own.transpose(0, 1)], 1)


def _fold(x: Tensor, kv_heads: int) -> Tensor:
    """[rows, num_heads, n] -> [kv_heads, group * rows, n]: a group's heads become rows."""
    rows, heads, size = x.shape
    return x.reshape(rows, kv_heads, heads // kv_heads, size).permute(1, 2, 0, 3).reshape(kv_heads, -1, size)


def _unfold(x: Tensor, rows: int) -> Tensor:
    """[kv_heads, group * rows, n] -> [rows, num_heads, n]."""
    kv_heads, _, size = x.shape
    return x.view(kv_heads, -1, rows, size).permute(2, 0, 1, 3).reshape(rows, -1, size)


def _probabilities(q: Tensor, keys: Tensor, block: RowBlock) -> Tensor:
    """Softmax of the block's scores, [kv_heads, group * rows, keys]; ``q`` is folded and scaled."""
    scores = torch.bmm(q, keys.transpose(1, 2))
    if block.mask is not None:
        by_row = scores.view(scores.shape[0], -1, block.end - block.start, scores.shape[2])
        by_row[..., block.masked - block.first_key :].add_(block.mask)
    return torch.softmax(scores, -1, out=scores)
