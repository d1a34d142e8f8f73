"""Rows of several sequences in one flat forward pass, each over its own kept prefix: no padding.

    flat row     0 … n0-1                 | n0 … n0+n1-1
    enters       segment 0                | segment 1
    attends to   [kept KV 0 ; own rows]   | [kept KV 1 ; own rows]

Linear layers see all rows at once; only attention goes segment by segment.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from alorakit.engine.branches import Branches, additive_mask
from alorakit.engine.model import Decoder, LoraApplier
from alorakit.engine.model_config import ModelConfig
from alorakit.kernels import ops

ROWS_PER_BLOCK = 128


@dataclass(frozen=True)
class Segment:
    """Rows of one sequence.

    Attributes:
        kv: Keys and values of the tokens before these rows, [layers, 2, kv_heads, kept, head_dim].
        trunk: Tokens after them.
        branches: Continuations of the trunk.
    """

    kv: Tensor
    trunk: tuple[int, ...]
    branches: Branches

    @property
    def num_kept(self) -> int:
        """Tokens before the rows."""
        return self.kv.shape[3]

    @property
    def num_rows(self) -> int:
        """Rows that enter the model."""
        return len(self.trunk) + self.branches.num_rows

    @property
    def positions(self) -> list[int]:
        """Position of each row."""
        end = self.num_kept + len(self.trunk)
        return [*range(self.num_kept, end), *(end + p for p in self.branches.positions)]

    def plan(self, window: int | None, dtype: torch.dtype, device: torch.device) -> ops.SegmentPlan:
        """Which keys each row sees; ``window``: the layer's sliding window."""
        end = self.num_kept + len(self.trunk)
        starts = [end + start for start in self.branches.starts]
        trunk = end if starts else None
        blocks = []
        for start in range(0, self.num_rows, ROWS_PER_BLOCK):
            rows = range(self.num_kept + start, self.num_kept + min(start + ROWS_PER_BLOCK, self.num_rows))
            # Every row sees all of the trunk before the first one of the block, but for what its window hides. A row of
            # a branch may lie up to num_rows keys after its position says.
            first = 0 if window is None else max(rows.start - self.branches.num_rows - window + 1, 0)
            masked = min(rows.start, end) if window is None else first
            mask = additive_mask(rows, masked, dtype, device, trunk=trunk, starts=starts, window=window)
            blocks.append(ops.RowBlock(start, rows.stop - self.num_kept, first, masked, mask))
        # A single branch goes on where the trunk ends.
        causal = window is None and not any(self.branches.starts)
        return ops.SegmentPlan(self.num_kept, blocks, causal)


class SegmentAttention:
    """The decoder's ``Attention`` over kept keys and the rows' own; differentiable."""

    def __init__(self, config: ModelConfig, segments: Sequence[Segment]) -> None:
        """Plan it, once for all layers with the same window."""
        self._config, self._segments = config, segments
        self._sizes = [segment.num_rows for segment in segments]
        self._plans = {
            window: [s.plan(window, s.kv.dtype, s.kv.device) for s in segments]
            for window in set(config.sliding_windows)
        }

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See :class:`alorakit.engine.model.Attention`."""
        plans, scale = self._plans[self._config.sliding_windows[layer]], self._config.attention_scale
        rows = zip(q.split(self._sizes), k.split(self._sizes), v.split(self._sizes), strict=True)
        parts = [
            ops.segment_attention(*own, segment.kv[layer], plan, scale)
            for own, segment, plan in zip(rows, self._segments, plans, strict=True)
        ]
        return torch.cat(parts)


class KeepingAttention(SegmentAttention):
    """Also keeps the rows' keys and values; for prefixes, under ``no_grad``."""

    def __init__(self, config: ModelConfig, segments: Sequence[Segment], buffers: Sequence[Tensor]) -> None:
        """Write into ``buffers``, one [layers, 2, kv_heads, kept + rows, head_dim] for each segment."""
        super().__init__(config, segments)
        self._buffers = buffers

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See :class:`alorakit.engine.model.Attention`."""
        self.keep(layer, k, v)
        return super().__call__(layer, q, k, v)

    def keep(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Write the rows' keys and values, [rows, kv_heads, head_dim] of all segments."""
        parts = zip(self._buffers, self._segments, k.split(self._sizes), v.split(self._sizes), strict=True)
        for buffer, segment, k_rows, v_rows in parts:
            buffer[layer, 0, :, segment.num_kept :] = k_rows.transpose(0, 1)
            buffer[layer, 1, :, segment.num_kept :] = v_rows.transpose(0, 1)


def run_segments(
    decoder: Decoder,
    segments: Sequence[Segment],
    attention: SegmentAttention,
    lora: LoraApplier | None,
    checkpointing: bool = False,
) -> Tensor:
    """Hidden states [rows, hidden_size] of all segments' rows, in order.

    ``checkpointing``: keep each layer's input only, and compute the rest again in the backward pass.
    """
    if not checkpointing:
        return decoder.forward(*_inputs(decoder, segments), attention, lora)
    token_ids, positions = _inputs(decoder, segments)
    cos, sin = decoder.rotary.at(positions)
    x = decoder.embed(token_ids)
    for index in range(decoder.config.num_layers):
        x = checkpoint(decoder.run_layer, index, x, cos, sin, attention, lora, use_reentrant=False)
    return ops.rms_norm(x, decoder.final_norm, decoder.config.rms_norm_eps)


def keep_segments(decoder: Decoder, segments: Sequence[Segment], attention: KeepingAttention) -> None:
    """Run the base model for what ``attention`` keeps; the last layer stops at its keys and values."""
    token_ids, positions = _inputs(decoder, segments)
    cos, sin = decoder.rotary.at(positions)
    x, last = decoder.embed(token_ids), decoder.config.num_layers - 1
    for index in range(last):
        x = decoder.run_layer(index, x, cos, sin, attention, None)
    _, k, v = decoder.queries_keys_values(last, x, cos, sin, None)
    attention.keep(last, k, v)


def _inputs(decoder: Decoder, segments: Sequence[Segment]) -> tuple[Tensor, Tensor]:
    """Token ids and positions of all rows, int64 [rows] each."""
    ids = [token for s in segments for token in (*s.trunk, *s.branches.token_ids)]
    positions = [position for s in segments for position in s.positions]
    return torch.tensor(ids, device=decoder.device), torch.tensor(positions, device=decoder.device)
