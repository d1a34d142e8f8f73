"""Paged attention in plain torch: views of the cache instead of copies, matrix products instead of gathers."""

from collections.abc import Sequence

import torch
from torch import Tensor

from alorakit.kernels.attention_types import AttentionPlan, AttentionSpan, BlockSpan, Runs

# Up to this many query rows (a sequence's rows times the heads of a group) torch's flash kernel for the CPU is the
# faster one; beyond, three calls of matrix product, softmax and matrix product are: 2 cores, 2,071 keys, 3 heads,
# one layer: 3 rows 0.15 against 0.20 ms, 24 rows 0.40 against 0.31, 69 rows 1.07 against 0.56.
FLASH_ROWS = 12
# Up to this many query rows products go head by head, which saves a copy of the keys; with more, the one batched
# product gains more than its copy costs. Same sizes: 24 rows 0.40 against 0.48 ms, 69 rows 0.55 against 0.50.
HEAD_ROWS = 36
# Up to this many runs of slots are attended one by one; more are put together first, which copies keys and values.
MAX_RUNS = 3


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


Pair = tuple[Tensor, Tensor]
LayerViews = Sequence[Sequence[Pair]]


class _GatheredViews(Sequence[Sequence[Pair]]):
    """Keys and values of many runs, put together when a layer asks for them."""

    def __init__(self, cache: Tensor, runs: Runs) -> None:
        self._cache, self._runs = cache, runs

    def __getitem__(self, layer: int) -> Sequence[Pair]:  # type: ignore[override]
        data = self._cache[layer]
        gathered = torch.cat([data[:, :, start:end] for start, end in self._runs], dim=2)
        return [(gathered[0], gathered[1])]

    def __len__(self) -> int:
        return self._cache.shape[0]


def _layer_views(cache: Tensor, runs: Runs) -> LayerViews:
    """For each layer the (keys, values) of each run, [kv_heads, slots of the run, head_dim]: views, if runs are few."""
    if len(runs) > MAX_RUNS:
        return _GatheredViews(cache, runs)
    each = [[pair.unbind(0) for pair in cache[:, :, :, start:end].unbind(0)] for start, end in runs]
    return list(zip(*each, strict=True))


def _keep(result: tuple[Tensor, Tensor | None], outs: list[Tensor], sums: list[Tensor]) -> None:
    out, lse = result
    assert lse is not None
    outs.append(out)
    sums.append(lse)


def _attend(
    q: Tensor, pairs: Sequence[Pair], mask: Tensor | None, scale: float, lse: bool
) -> tuple[Tensor, Tensor | None]:
    """Rows [rows, kv_heads, group, head_dim] over runs of keys [kv_heads, slots, head_dim]; see ``_span``."""
    rows, kv_heads, group, dim = q.shape
    folded = q.permute(1, 2, 0, 3).reshape(kv_heads, group * rows, dim)
    sums: Tensor | None
    if mask is None and rows * group <= FLASH_ROWS and q.device.type == "cpu":
        out, sums = _flash(folded[None], pairs, scale)
    else:
        out, sums = _products(folded, pairs, mask, scale, lse)
    unfolded = None if not lse or sums is None else sums.view(kv_heads, group, rows).permute(2, 0, 1)
    return out.view(kv_heads, group, rows, dim).permute(2, 0, 1, 3).reshape(rows, -1), unfolded


def _flash(q: Tensor, pairs: Sequence[Pair], scale: float) -> tuple[Tensor, Tensor]:
    """Torch's kernel, run by run; q [1, kv_heads, rows, head_dim]. Results and log-sum-exp [1, kv_heads, rows]."""
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    results = [flash(q, k[None], v[None], 0.0, False, attn_mask=None, scale=scale) for k, v in pairs]
    if len(results) == 1:
        out, sums = results[0]
        return out, sums
    outs, lses = torch.stack([out for out, _ in results]), torch.stack([sums for _, sums in results])
    return (outs * lses.softmax(0)[..., None]).sum(0).to(q.dtype), lses.logsumexp(0)


def _products(
    q: Tensor, pairs: Sequence[Pair], mask: Tensor | None, scale: float, lse: bool
) -> tuple[Tensor, Tensor | None]:
    """Matrix products and a softmax; q [kv_heads, group * rows, head_dim], results alike."""
    product = _by_head if q.shape[1] <= HEAD_ROWS else torch.bmm
    q = q * scale  # here and not as a factor of the products: that would take a pass over the scores
    parts = [product(q, k.transpose(1, 2)) for k, _ in pairs]
    scores = parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
    if mask is not None:
        rows, tail = mask.shape
        scores.view(q.shape[0], -1, rows, scores.shape[2])[..., scores.shape[2] - tail :] += mask
    probs = scores.softmax(-1)
    sums = _log_sum_exp(scores, probs) if lse else None
    split = probs.split([k.shape[1] for k, _ in pairs], dim=2) if len(pairs) > 1 else [probs]
    out = product(split[0], pairs[0][1])
    for part, (_, v) in zip(split[1:], pairs[1:], strict=True):
        out = out + product(part, v)
    return out, sums


def _by_head(a: Tensor, b: Tensor) -> Tensor:
    """``torch.bmm`` head by head: it copies its second factor, whose heads do not lie together."""
    return torch.stack([torch.mm(a[head], b[head]) for head in range(a.shape[0])])


def _log_sum_exp(scores: Tensor, probs: Tensor) -> Tensor:
    """float32 log-sum-exp over the last dimension, given the softmax: that of the largest score is exp(largest - lse).

    Two passes instead of ``logsumexp``'s five; in bfloat16 it is off by 2^-9 at most, as the results are.
    """
    return scores.amax(-1).float() - probs.amax(-1).float().log()


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
        sums.append(_log_sum_exp(scores, probs))
        split = probs.split(sizes)
        outs.append(_joined([torch.bmm(prob, value) for prob, value in zip(split, v, strict=True)]))
    return torch.stack(outs, 1).view(len(picked), -1), torch.stack(sums, 1)


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
