"""What each op means: short, float32, no tricks. Tests hold every implementation against these."""

from collections.abc import Sequence

import torch
from torch import Tensor

from alorakit.kernels.lora_stack import LoraStack


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Root-mean-square norm over the last dimension."""
    x32 = x.float()
    return (x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + eps) * weight.float()).to(x.dtype)


def rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding; ``cos``/``sin`` [rows, 1, head_dim] as in ops (first half of ``sin`` negated)."""
    first, second = x.float().chunk(2, dim=-1)
    return (x.float() * cos.float() + torch.cat([second, first], dim=-1) * sin.float()).to(x.dtype)


def silu_mul(x: Tensor) -> Tensor:
    """``silu(gate) * up``."""
    gate, up = x.float().chunk(2, dim=-1)
    return (gate * torch.sigmoid(gate) * up).to(x.dtype)


def lora_delta(out: Tensor, x: Tensor, stack: LoraStack, segments: Sequence[tuple[int, int, int]]) -> Tensor:
    """``out`` plus, on each segment's rows (first, one past last, slot), that slot's ``(x A) B``, tile by tile.

    The rank-r intermediate is rounded to the compute dtype, as the kernels may.
    """
    total, (tiles, rank, width) = out.float().clone(), stack.b.shape[1:]
    parts = range(tiles) if stack.tile_parts is None else stack.tile_parts.tolist()
    for start, end, slot in segments:
        low = (x[start:end].float() @ stack.a[slot].float()).to(x.dtype).float()
        for first, last, column in stack.runs:
            for tile in range(first, last):
                begin = column + (tile - first) * width
                part = low[:, parts[tile] * rank : (parts[tile] + 1) * rank]
                total[start:end, begin : begin + width] += part @ stack.b[slot, tile].float()
    return total.to(out.dtype)


def paged_attention(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, slots: Sequence[int], visible: Tensor, scale: float
) -> Tensor:
    """One sequence: ``q`` [rows, heads, dim] over ``slots``; ``visible`` bool [rows, kv_len]."""
    group = q.shape[1] // k_cache.shape[0]
    index = torch.as_tensor(slots)
    k = k_cache[:, index].float().repeat_interleave(group, 0)
    v = v_cache[:, index].float().repeat_interleave(group, 0)
    scores = torch.einsum("rhd,hkd->hrk", q.float(), k) * scale
    probs = scores.masked_fill(~visible, float("-inf")).softmax(-1)
    return torch.einsum("hrk,hkd->rhd", probs, v).reshape(q.shape[0], -1).to(q.dtype)


def segment_attention(q: Tensor, k: Tensor, v: Tensor, kept: Tensor, visible: Tensor, scale: float) -> Tensor:
    """One sequence: ``q`` [rows, heads, dim] over ``kept`` [2, kv_heads, num_kept, dim] and the rows' own keys.

    ``visible``: bool [rows, num_kept + rows]. Differentiable.
    """
    keys, values = (torch.cat([old, own.transpose(0, 1)], 1) for old, own in zip(kept, (k, v), strict=True))
    return paged_attention(q, keys, values, range(keys.shape[1]), visible, scale)


def lora_table_delta(
    out: Tensor,
    x: Tensor,
    adapters: Sequence[Sequence[tuple[Tensor, Tensor] | None]],
    widths: Sequence[int],
    segments: Sequence[tuple[int, int, int]],
) -> Tensor:
    """``out`` plus, on each segment's rows (first, one past last, slot), that slot's ``B (A x)``, part by part.

    ``adapters[slot][part]`` is (A, B) or None; the rank-r intermediate is rounded to the compute dtype.
    """
    total = out.float().clone()
    for start, end, slot in segments:
        column = 0
        for width, pair in zip(widths, adapters[slot], strict=True):
            if pair is not None:
                low = (x[start:end].float() @ pair[0].float().T).to(x.dtype).float()
                total[start:end, column : column + width] += low @ pair[1].float().T
            column += width
    return total.to(out.dtype)


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, sums: Tensor | None = None, eps: float = 0.0
) -> Tensor:
    """``x W^T + bias`` in float32; with ``sums`` [rows, parts] of squares, rows are divided by their rms beforehand.

    A row's ``A x`` is the same with its adapter's A [rank, in] for W.
    """
    x32 = x.float()
    if sums is not None:
        x32 = x32 * torch.rsqrt(sums.sum(-1, keepdim=True) / x.shape[1] + eps)
    product = x32 @ weight.float().T
    return product if bias is None else product + bias.float()


def linear_wide(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``x W^T + bias``, rounded once; differentiable."""
    return linear(x, weight, bias).to(x.dtype)


def projected(
    sums: Tensor,
    low: Tensor | None = None,
    adapters: Sequence[Sequence[tuple[Tensor, Tensor] | None]] = (),
    widths: Sequence[int] = (),
    row_slots: Sequence[int | None] = (),
) -> Tensor:
    """``sums`` [splits, rows, out] summed in float32, plus ``B low`` of each row's adapter, part by part.

    ``adapters[slot][part]`` is (A, B) or None; ``low`` [splits, rows, parts, rank] is summed, then rounded to the
    compute dtype.
    """
    total = sums.float().sum(0)
    if low is None:
        return total
    for row, slot in enumerate(row_slots):
        if slot is None:
            continue
        for part, (pair, columns) in enumerate(zip(adapters[slot], total[row].split(list(widths)), strict=True)):
            if pair is not None:
                b = pair[1]
                columns += b.float() @ low[:, row, part, : b.shape[1]].sum(0).to(b.dtype).float()
    return total


def add_norm(x: Tensor, delta: Tensor, weight: Tensor, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """``x + scale * delta``, that times ``weight``, and its sum of squares [rows]."""
    total = (x.float() + scale * delta.float()).to(x.dtype)
    total32 = total.float()
    return total, (total32 * weight.float()).to(x.dtype), total32.pow(2).sum(-1)


def add_rms_norm(
    x: Tensor, delta: Tensor | None, weight: Tensor, eps: float, scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """``x + scale * delta``, and its norm."""
    total = x if delta is None else (x.float() + scale * delta.float()).to(x.dtype)
    return total, rms_norm(total, weight, eps)


def rope_kv_write(
    qkv: Tensor,
    cache: Tensor,
    positions: Tensor,
    slots: Sequence[int],
    cos: Tensor,
    sin: Tensor,
    num_heads: int,
    qk_norm: tuple[Tensor, Tensor] | None = None,
    eps: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Rotated (and normed) queries, and ``cache`` [2, kv_heads, num_slots, dim] with the rows of ``slots`` >= 0."""
    _, num_kv_heads, _, dim = cache.shape
    q, k, v = qkv.unflatten(1, (-1, dim)).split([num_heads, num_kv_heads, num_kv_heads], 1)
    if qk_norm is not None:
        q, k = rms_norm(q, qk_norm[0], eps), rms_norm(k, qk_norm[1], eps)
    q, k = (rope(heads, cos[positions, None], sin[positions, None]) for heads in (q, k))
    cache = cache.clone()
    for row, slot in enumerate(slots):
        if slot >= 0:
            cache[0, :, slot], cache[1, :, slot] = k[row], v[row]
    return q.to(cache.dtype), cache


def lora_linear(
    out: Tensor, x: Tensor, a: Tensor, b: Sequence[Tensor | None], widths: Sequence[int], scale: float
) -> Tensor:
    """``out`` plus ``scale * B (A x)``, part by part; differentiable."""
    rank = a.shape[0] // sum(weight is not None for weight in b)
    deltas, first = [], 0
    for width, weight in zip(widths, b, strict=True):
        if weight is None:
            deltas.append(torch.zeros(len(x), width, device=x.device))
        else:
            deltas.append(scale * (x.float() @ a[first : first + rank].T) @ weight.T)
            first += rank
    return (out.float() + torch.cat(deltas, dim=1)).to(out.dtype)


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, rows: Tensor, where: Tensor, targets: Tensor, divisor: float
) -> Tensor:
    """Log-probability of ``targets[i]`` after row ``rows[where[i]]``; differentiable."""
    logits = hidden.float() @ weight.float().T / divisor
    log_probabilities = logits.log_softmax(-1)
    return log_probabilities[rows[where], targets]
