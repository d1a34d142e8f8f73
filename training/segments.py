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

from alorakit.engine.branches import Branches, additive_mask
from alorakit.engine.model import Decoder, LoraApplier
from alorakit.engine.model_config import ModelConfig
from alorakit.kernels import ops


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

    def mask(self, group: int, window: int | None, dtype: torch.dtype, device: torch.device) -> Tensor | None:
        """Which keys each row sees, as ``ops.attention`` wants it."""
        end = self.num_kept + len(self.trunk)
        rows = range(self.num_kept, self.num_kept + self.num_rows)
        starts = [end + start for start in self.branches.starts]
        trunk = end if starts else None
        mask = additive_mask(rows, 0, dtype, device, trunk=trunk, starts=starts, window=window)
        return None if mask is None else mask.repeat(group, 1)


class SegmentAttention:
    """The decoder's ``Attention`` over kept keys and the rows' own; differentiable."""

    def __init__(self, config: ModelConfig, segments: Sequence[Segment]) -> None:
        """Build the masks, which most layers share."""
        self._config, self._segments = config, segments
        group = config.num_heads // config.num_kv_heads
        self._masks = {
            window: [s.mask(group, window, s.kv.dtype, s.kv.device) for s in segments]
            for window in set(config.sliding_windows)
        }

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See :class:`alorakit.engine.model.Attention`."""
        masks = self._masks[self._config.sliding_windows[layer]]
        sizes = [segment.num_rows for segment in self._segments]
        parts = []
        own = zip(q.split(sizes), k.split(sizes), v.split(sizes), masks, strict=True)
        for index, (rows, k_rows, v_rows, mask) in enumerate(own):
            keys, values = self._keys_values(layer, index, k_rows.transpose(0, 1), v_rows.transpose(0, 1))
            parts.append(ops.attention(rows, keys, values, mask, self._config.attention_scale))
        return torch.cat(parts)

    def _keys_values(self, layer: int, index: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values of a segment, given its own [kv_heads, rows, head_dim]."""
        kept = self._segments[index].kv[layer]
        return torch.cat([kept[0], k], dim=1), torch.cat([kept[1], v], dim=1)


class KeepingAttention(SegmentAttention):
    """Also keeps the rows' keys and values; for prefixes, under ``no_grad``."""

    def __init__(self, config: ModelConfig, segments: Sequence[Segment], buffers: Sequence[Tensor]) -> None:
        """Write into ``buffers``, one [layers, 2, kv_heads, kept + rows, head_dim] for each segment."""
        super().__init__(config, segments)
        self._buffers = buffers

    def _keys_values(self, layer: int, index: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        buffer, kept = self._buffers[index][layer], self._segments[index].num_kept
        buffer[0, :, kept:], buffer[1, :, kept:] = k, v
        return buffer[0], buffer[1]


def run_segments(
    decoder: Decoder, segments: Sequence[Segment], attention: SegmentAttention, lora: LoraApplier | None
) -> Tensor:
    """Hidden states [rows, hidden_size] of all segments' rows, in order."""
    ids = [token for s in segments for token in (*s.trunk, *s.branches.token_ids)]
    positions = [position for s in segments for position in s.positions]
    return decoder.forward(
        torch.tensor(ids, device=decoder.device), torch.tensor(positions, device=decoder.device), attention, lora
    )
