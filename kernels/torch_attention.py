"""Paged attention in plain torch: views of the cache instead of copies, matrix products instead of gathers."""

from collections.abc import Sequence

import torch
from torch import Tensor

from alorakit.kernels.attention_types import AttentionPlan, AttentionSpan, BlockSpan, Runs

# Torch's flash kernel for the CPU calls oneDNN for every 512 keys of a head, some 10 us each time, so it is the faster
# one for few rows (a sequence's rows times the heads of a group) and few keys (elements of all heads) only. One layer,
# 3 heads of 64 elements, flash against products, in us: 3 rows and 64 keys 15 : 34, 256 keys 25 : 39, 512 keys 39 : 45,
# 1,024 keys 92 : 58, 2,048 keys 201 : 92; 12 rows and 256 keys 35 : 42; 24 rows and 256 keys 52 : 47.
FLASH_ROWS = 12
FLASH_KEYS = 1 << 16
# Batched products want the heads side by side. They copy keys to have them so, and slowly: a copy made before takes a
# third off (23 rows, 2,071 keys, 3 heads: 0.50 ms a layer become 0.37). From so many bytes of keys on, which do not
# stay in a CPU's cache, products head by head are the faster ones: 8 heads of 128, 4 rows: 8,192 keys 1.65 : 1.97 ms,
# 32,768 keys 11.5 : 7.6.
COPY_BYTES = 1 << 24


class TorchPagedAttention:
    """One step's attention over the paged cache; what all layers have in common is prepared once."""

    def __init__(self, cache: Tensor, plan: AttentionPlan, scale: float) -> None:
        """See :func:`alorakit.kernels.ops.paged_attention`."""
        self._cache, self._plan, self._scale = cache, plan, scale
        self._views = [_layer_views(cache, span.runs) for span in plan.spans]
        self._shared = [_layer_views(cache, span.runs) for span in plan.shared]
        self._pieces = [_layer_views(cache, span.runs) for span in plan.pieces]

    def __call__(self, layer: int, q: Tensor) -> Tensor:
        """Attend with ``q`` [rows, num_heads, head_dim] -> [rows, num_heads * head_dim]."""
        plan, kv_heads = self._plan, self._cache.shape[2]
        grouped = q.view(q.shape[0], kv_heads, -1, q.shape[2])
        parts = []
        for span, views in zip(plan.spans, self._views, strict=True):
            parts.append(self._span(grouped, span, views, layer)[0])
        if plan.merged is None:
            return parts[0] if len(parts) == 1 else torch.cat(parts)
        out = q.new_empty(q.shape[0], q.shape[1] * q.shape[2])
        for span, part in zip(plan.spans, parts, strict=True):
            out[span.start : span.end] = part
        return out.index_copy_(0, plan.merged, self._merged(grouped, layer))

    def _span(
        self, q: Tensor, span: AttentionSpan, views: "LayerViews", layer: int, lse: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Results [rows, num_heads * head_dim] and their log-sum-exp [rows, kv_heads, group] if asked for."""
        return _attend(q[span.start : span.end], views[layer], span.mask, self._scale, lse)

    def _merged(self, q: Tensor, layer: int) -> Tensor:
        """Results of the rows that have several pieces, [rows, num_heads * head_dim]."""
        plan, dim = self._plan, q.shape[3]
        outs: list[Tensor] = []
        sums: list[Tensor] = []
        for shared, views in zip(plan.shared, self._shared, strict=True):
            _keep(_attend(q.index_select(0, shared.rows), views[layer], None, self._scale, lse=True), outs, sums)
        for span, views in zip(plan.pieces, self._pieces, strict=True):
            _keep(self._span(q, span, views, layer, lse=True), outs, sums)
        if plan.blocks is not None:
            keys_values = self._cache[layer]
            _keep(_attend_blocks(q, keys_values[0], keys_values[1], plan.blocks, self._scale), outs, sums)
        assert plan.parts is not None
        rows, most = plan.parts.shape
        # One more result of weight zero stands for the pieces that a row lacks.
        sums.append(sums[0].new_full((1, *sums[0].shape[1:]), float("-inf")))
        outs.append(outs[0].new_zeros(1, outs[0].shape[1]))
        index = plan.parts.view(-1)
        weights = torch.cat(sums).index_select(0, index).view(rows, most, -1).softmax(1)
        picked = torch.cat(outs).index_select(0, index).view(rows, most, -1, dim)
        return (picked * weights[..., None]).sum(1).view(rows, -1).to(q.dtype)


# For each layer its runs' keys and values, [2, kv_heads, slots of the run, head_dim] each.
LayerViews = Sequence[Sequence[Tensor]]


def _layer_views(cache: Tensor, runs: Runs) -> LayerViews:
    return list(zip(*(cache[:, :, :, start:end].unbind(0) for start, end in runs), strict=True))


def _keep(result: tuple[Tensor, Tensor | None], outs: list[Tensor], sums: list[Tensor]) -> None:
    out, lse = result
    assert lse is not None
    outs.append(out)
    sums.append(lse)


def _attend(
    q: Tensor, runs: Sequence[Tensor], mask: Tensor | None, scale: float, lse: bool
) -> tuple[Tensor, Tensor | None]:
    """Rows [rows, kv_heads, group, head_dim] over a layer's runs of keys and values; see ``_span``."""
    rows, kv_heads, group, dim = q.shape
    folded = q.permute(1, 2, 0, 3).reshape(kv_heads, group * rows, dim)
    keys_values = runs[0] if len(runs) == 1 else torch.cat(list(runs), dim=2)
    few = group * rows <= FLASH_ROWS and keys_values[0].numel() <= FLASH_KEYS
    sums: Tensor | None
    if few and mask is None and q.device.type == "cpu":
        out, sums = _flash(folded[None], keys_values, scale)
    else:
        out, sums = _products(folded, keys_values, mask, scale, lse)
    unfolded = None if not lse or sums is None else sums.view(kv_heads, group, rows).permute(2, 0, 1)
    return out.view(kv_heads, group, rows, dim).permute(2, 0, 1, 3).reshape(rows, -1), unfolded


def _flash(q: Tensor, keys_values: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Torch's kernel; q [1, kv_heads, rows, head_dim]. Results, and log-sum-exp [1, kv_heads, rows]."""
    k, v = keys_values[:, None].unbind(0)
    out, sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q, k, v, 0.0, False, attn_mask=None, scale=scale
    )
    return out, sums


def _products(
    q: Tensor, keys_values: Tensor, mask: Tensor | None, scale: float, lse: bool
) -> tuple[Tensor, Tensor | None]:
    """Matrix products and a softmax; q [kv_heads, group * rows, head_dim], results alike."""
    if keys_values[0].nbytes <= COPY_BYTES:
        keys_values = keys_values.contiguous()
    k, v = keys_values.unbind(0)
    product = torch.bmm if k.is_contiguous() else _by_head
    # The scale goes here and not into the product, where it would take a pass over the scores.
    scores = product(q * scale, k.transpose(1, 2))
    if mask is not None:
        rows, tail = mask.shape
        scores.view(q.shape[0], -1, rows, scores.shape[2])[..., scores.shape[2] - tail :].add_(mask)
    largest = scores.amax(-1).float() if lse else None
    probs = torch.softmax(scores, -1, out=scores if q.device.type == "cpu" else None)  # in place: half the traffic
    return product(probs, v), None if largest is None else _log_sum_exp(largest, probs)


def _by_head(a: Tensor, b: Tensor) -> Tensor:
    """``torch.bmm`` head by head: it copies its second factor, whose heads do not lie together."""
    return torch.stack([torch.mm(a[head], b[head]) for head in range(a.shape[0])])


def _log_sum_exp(largest: Tensor, probs: Tensor) -> Tensor:
    """float32 log-sum-exp over the last dimension, given the largest score and the softmax: exp(largest - lse) is the
    largest probability.

    Two passes instead of ``logsumexp``'s five; in bfloat16 it is off by 2^-9 at most, as the results are.
    """
    return largest - probs.amax(-1).float().log()


def _attend_blocks(q: Tensor, keys: Tensor, values: Tensor, span: BlockSpan, scale: float) -> tuple[Tensor, Tensor]:
    """Each pair's result [pairs, num_heads * head_dim] and log-sum-exp [pairs, kv_heads, group], head by head.

    A run of a head's blocks is a batch of matrices, [blocks, block_size, head_dim], which no copy is needed for.
    """
    picked = q.index_select(0, span.rows)
    sizes = [end - start for start, end in span.runs]
    masks = span.mask.split(sizes)
    outs, sums = [], []
    for head in range(keys.shape[0]):
        blocks = [cache[head].view(-1, span.block_size, q.shape[3]) for cache in (keys, values)]
        k, v = ([part[start:end] for start, end in span.runs] for part in blocks)
        rows = picked[:, head].split(sizes)
        parts = [
            torch.baddbmm(mask, row, key.transpose(1, 2), alpha=scale)
            for mask, row, key in zip(masks, rows, k, strict=True)
        ]
        scores = _joined(parts)
        probs = scores.softmax(-1)
        sums.append(_log_sum_exp(scores.amax(-1).float(), probs))
        split = probs.split(sizes)
        outs.append(_joined([torch.bmm(prob, value) for prob, value in zip(split, v, strict=True)]))
    return torch.stack(outs, 1).view(len(picked), -1), torch.stack(sums, 1)


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
