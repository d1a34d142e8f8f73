"""The decoder's forward pass in Triton kernels: the same model as :mod:`alorakit.engine.model`, ten launches a layer.

    norm | qkv + shrink | expand + rope + KV write | attention | merge | o + shrink | expand + add + norm
         | gate_up + shrink | expand + silu * up | down + shrink | expand + add + norm

Up to 64 rows are a matter of reading weights: products stream them once (:class:`FewRows`). Beyond, products are the
matrix library's (:class:`ManyRows`). Everything a pass reads is in :class:`StepTensors`, on the device, so it can be
captured in a CUDA graph.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from alorakit.engine.layers import Linear
from alorakit.engine.model import Decoder
from alorakit.kernels import ops
from alorakit.kernels.ops import Lora, LoraRows, LoraTable, Projected, Tile, TileTensors


@dataclass(frozen=True)
class AttentionStep:
    """A step's attention for one sliding window.

    Attributes:
        work: Which rows attend to which keys.
        tile: What the items are cut for.
        num_parts: Partial results there may be; 0: no row has several.
    """

    work: TileTensors
    tile: Tile
    num_parts: int


@dataclass(frozen=True)
class LoraTiles:
    """Adapted rows of a large batch, cut into tiles; see ``ops.fused.lora_delta``."""

    tiles: Tensor
    block_m: int
    max_rank: int


@dataclass(frozen=True)
class LoraStep:
    """A step's adapters.

    Attributes:
        tables: For each fused projection that an adapter of the step has, the table of each layer.
        rows: Which rows want which adapter: one form for few rows, one for many.
    """

    tables: Mapping[str, Sequence[LoraTable]]
    rows: LoraRows | LoraTiles


@dataclass(frozen=True)
class StepTensors:
    """Everything that differs from step to step, on the device.

    Attributes:
        token_ids: int32 [rows].
        positions: int32 [rows].
        slots: int32 [rows]; negative for rows that fill the step up.
        attention: For each distinct sliding window.
        lora: None if no row is adapted.
        logits_rows: int32 [n], rows whose logits are wanted; None: all.
    """

    token_ids: Tensor
    positions: Tensor
    slots: Tensor
    attention: Mapping[int | None, AttentionStep]
    lora: LoraStep | None
    logits_rows: Tensor | None


class Products(Protocol):
    """The matrix products of a pass and the norms before them; ``sums`` is whatever the norm leaves to the product."""

    def embed(self, ids: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Residual stream, input of the next product, sums."""

    def add(self, x: Tensor, delta: Projected, weight: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """The same after a projection was added to the stream."""

    def project(self, layer: int, name: str, linear: Linear, h: Tensor, sums: Tensor | None) -> Projected:
        """A fused projection with the adapters' deltas, or what is needed to add them."""

    def logits(self, h: Tensor, sums: Tensor | None, rows: Tensor | None) -> tuple[Tensor, Tensor]:
        """float32 [n, vocab_size], and bool [rows + n]: which rows of hidden states, then of logits, are finite."""


class FewRows:
    """Products that read each weight once; norms, shrink and expand ride along."""

    def __init__(self, model: Decoder, lora: LoraStep | None, logits: Tensor) -> None:
        """For one pass of ``model``.

        Args:
            model: Whose products they are.
            lora: The step's adapters.
            logits: float32 [at least rows, vocab_size], to be overwritten.
        """
        self._model, self._cfg, self._lora, self._logits = model, model.config, lora, logits

    def embed(self, ids: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """See :class:`Products`."""
        return ops.fused.embed_norm(ids, self._model.embedding, weight, self._cfg.embedding_multiplier)

    def add(self, x: Tensor, delta: Projected, weight: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """See :class:`Products`."""
        return ops.fused.add_norm(x, delta, weight, self._cfg.residual_multiplier)

    def project(self, layer: int, name: str, linear: Linear, h: Tensor, sums: Tensor | None) -> Projected:
        """See :class:`Products`."""
        lora = None
        if self._lora is not None and name in self._lora.tables:
            assert isinstance(self._lora.rows, LoraRows)
            lora = Lora(self._lora.tables[name][layer], self._lora.rows)
        return ops.fused.linear(h, linear.weight, linear.bias, sums, self._cfg.rms_norm_eps, lora)

    def logits(self, h: Tensor, sums: Tensor | None, rows: Tensor | None) -> tuple[Tensor, Tensor]:
        """See :class:`Products`; always of all rows, as the weights are what takes time."""
        head = self._model.lm_head
        eps = self._cfg.rms_norm_eps
        out = self._logits[: len(h)]
        parts = ops.fused.linear(h, head.weight, head.bias, sums, eps, out=out).sums
        if len(parts) > 1:
            torch.sum(parts, 0, out=out)
        if self._cfg.logits_divisor != 1.0:
            out /= self._cfg.logits_divisor
        assert sums is not None
        return out, torch.cat([sums.sum(1), out.sum(1)]).isfinite()


class ManyRows:
    """Products by the matrix library."""

    def __init__(self, model: Decoder, lora: LoraStep | None) -> None:
        """For one pass of ``model``."""
        self._model, self._cfg, self._lora = model, model.config, lora

    def embed(self, ids: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """See :class:`Products`."""
        x = self._model.embed(ids)
        return *ops.fused.add_rms_norm(x, None, weight, self._cfg.rms_norm_eps), None

    def add(self, x: Tensor, delta: Projected, weight: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """See :class:`Products`."""
        eps, scale = self._cfg.rms_norm_eps, self._cfg.residual_multiplier
        return *ops.fused.add_rms_norm(x, delta.sums[0], weight, eps, scale), None

    def project(self, layer: int, name: str, linear: Linear, h: Tensor, sums: Tensor | None) -> Projected:
        """See :class:`Products`."""
        out = F.linear(h, linear.weight, linear.bias)
        if self._lora is not None and name in self._lora.tables:
            rows = self._lora.rows
            assert isinstance(rows, LoraTiles)
            ops.fused.lora_delta(out, h, self._lora.tables[name][layer], rows.tiles, rows.block_m, rows.max_rank)
        return Projected(out[None])

    def logits(self, h: Tensor, sums: Tensor | None, rows: Tensor | None) -> tuple[Tensor, Tensor]:
        """See :class:`Products`."""
        wanted = h if rows is None else h.index_select(0, rows)
        logits = self._model.logits(wanted)
        return logits, torch.cat([h.sum(1, dtype=torch.float32), logits.sum(1)]).isfinite()


def forward(
    model: Decoder, cache: Tensor, block_size: int, step: StepTensors, products: Products
) -> tuple[Tensor, Tensor]:
    """Run all layers over a step's rows.

    Args:
        model: Weights, not packed.
        cache: [layers, 2, num_kv_heads, num_slots, head_dim]; the rows' keys and values are written to it.
        block_size: Slots in a block.
        step: What the rows are.
        products: :class:`FewRows` or :class:`ManyRows`.

    Returns:
        Logits float32 [n, vocab_size] of the wanted rows, and bool [rows + n]: which rows of hidden states, then of
        logits, are finite.
    """
    cfg, layers, fused = model.config, model.layers, ops.fused
    rows = len(step.token_ids)
    rotary = fused.Rotary(*model.rotary.tables)
    most = max(attention.num_parts for attention in step.attention.values())
    partials = fused.Partials.empty(most, cfg.num_heads, cfg.head_dim, cache.device)
    # Rows that fill the step up are never attended for; whatever else was there might be no number.
    a = torch.zeros(rows, cfg.num_heads * cfg.head_dim, dtype=cache.dtype, device=cache.device)
    x, h, sums = products.embed(step.token_ids, layers[0].input_norm)
    for index, layer in enumerate(layers):
        qkv = products.project(index, "qkv", layer.qkv, h, sums)
        q = fused.rope_kv_write(
            qkv, cache[index], step.positions, step.slots, rotary, cfg.num_heads, layer.qk_norm, cfg.rms_norm_eps
        )
        attention = step.attention[cfg.sliding_windows[index]]
        merge = attention.num_parts > 0
        scale = cfg.attention_scale
        fused.paged_attention(a, q, cache[index], attention.work, partials, attention.tile, block_size, scale, merge)
        o = products.project(index, "o", layer.o, a, None)
        x, h, sums = products.add(x, o, layer.post_norm)
        gate_up = products.project(index, "gate_up", layer.gate_up, h, sums)
        h = fused.silu_mul(gate_up, cache.dtype)
        down = products.project(index, "down", layer.down, h, None)
        following = layers[index + 1].input_norm if index + 1 < len(layers) else model.final_norm
        x, h, sums = products.add(x, down, following)
    return products.logits(h, sums, step.logits_rows)
