"""How the low-rank weights of several adapters lie in memory."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import gcd

import torch
from torch import Tensor


@dataclass(frozen=True)
class LoraStack:
    """Low-rank weights of adapters of one shape for one fused projection, a slot for each adapter.

    The adapted columns of the output are cut into tiles of equal width, each of one part (linear layer) of the
    projection, so that B is dense: q, k, v of widths 576, 192, 192 are five tiles of 192, of the parts 0, 0, 0, 1, 2.

    Attributes:
        a: [num_slots, in_features, num_parts * rank]; the adapted parts' ranks one after the other.
        b: [num_slots, num_tiles, rank, tile width], LoRA scaling included.
        part_tiles: (first tile, one past last tile) of each adapted part.
        tile_parts: The adapted part of each tile, int64 [num_tiles]; None if tiles are parts.
        runs: (first tile, one past last tile, first output column) of neighbouring tiles; together they are all tiles.
        few_rows: The same weights in float32 where products of few rows take less time so, or None.
    """

    a: Tensor
    b: Tensor
    part_tiles: tuple[tuple[int, int], ...]
    tile_parts: Tensor | None
    runs: tuple[tuple[int, int, int], ...]
    few_rows: "LoraStack | None" = None
    _windows: dict[tuple[int, int], tuple[Tensor, Tensor]] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def zeros(
        cls,
        num_slots: int,
        in_features: int,
        widths: Sequence[int],
        adapted: Sequence[int],
        rank: int,
        dtypes: Sequence[torch.dtype],
        device: torch.device,
    ) -> "LoraStack":
        """Empty slots.

        Args:
            num_slots: How many.
            in_features: Width of the projection's input.
            widths: out_features of every part of the fused projection.
            adapted: Indices of the adapted ones, ascending, at least one.
            rank: Largest rank of an adapter in a part.
            dtypes: See ``ops.lora_dtypes``.
            device: Where the weights lie.
        """
        tile = gcd(*(widths[index] for index in adapted))
        part_tiles: list[tuple[int, int]] = []
        runs: list[tuple[int, int, int]] = []
        num_tiles = 0
        for part, index in enumerate(adapted):
            first, num_tiles = num_tiles, num_tiles + widths[index] // tile
            part_tiles.append((first, num_tiles))
            if runs and index == adapted[part - 1] + 1:
                runs[-1] = (runs[-1][0], num_tiles, runs[-1][2])
            else:
                runs.append((first, num_tiles, sum(widths[:index])))
        tile_parts = [part for part, (first, last) in enumerate(part_tiles) for _ in range(first, last)]
        more = dtypes[1:]
        return cls(
            a=torch.zeros(num_slots, in_features, len(adapted) * rank, dtype=dtypes[0], device=device),
            b=torch.zeros(num_slots, num_tiles, rank, tile, dtype=dtypes[0], device=device),
            part_tiles=tuple(part_tiles),
            tile_parts=None if num_tiles == len(adapted) else torch.tensor(tile_parts, device=device),
            runs=tuple(runs),
            few_rows=cls.zeros(num_slots, in_features, widths, adapted, rank, more, device) if more else None,
        )

    @property
    def slot_bytes(self) -> int:
        """Size of one slot, as products of few rows read it."""
        stack = self.few_rows or self
        return stack.a[0].nbytes + stack.b[0].nbytes

    def resized(self, num_slots: int) -> "LoraStack":
        """A copy with more or fewer slots; the first ones keep their weights and places."""

        def resize(old: Tensor) -> Tensor:
            new, kept = old.new_zeros(num_slots, *old.shape[1:]), min(num_slots, old.shape[0])
            new[:kept] = old[:kept]
            return new

        few_rows = None if self.few_rows is None else self.few_rows.resized(num_slots)
        return replace(self, a=resize(self.a), b=resize(self.b), few_rows=few_rows)

    def move(self, source: int, dest: int) -> None:
        """Copy a slot's weights to another slot."""
        self.a[dest], self.b[dest] = self.a[source], self.b[source]
        if self.few_rows is not None:
            self.few_rows.move(source, dest)

    def write(self, slot: int, part: int, a: Tensor, b: Tensor) -> None:
        """Put an adapter's weights for one part into a slot.

        Args:
            slot: Which slot.
            part: Which of the adapted parts.
            a: [rank, in_features], any dtype and device; rank may be smaller than the stack's.
            b: [out_features, rank], likewise; LoRA scaling included.
        """
        rank, stack_rank, tile = a.shape[0], self.b.shape[2], self.b.shape[3]
        tiles = self.b[slot, slice(*self.part_tiles[part])]
        columns = self.a[slot, :, part * stack_rank : (part + 1) * stack_rank]
        columns[:, :rank].copy_(a.T)
        tiles[:, :rank].copy_(b.view(-1, tile, rank).transpose(1, 2))
        # What an adapter of a higher rank left behind in this slot.
        columns[:, rank:].zero_()
        tiles[:, rank:].zero_()
        if self.few_rows is not None:
            self.few_rows.write(slot, part, a, b)

    def window(self, slots: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Views of (first, number of) slots: a, and b as [num * num_tiles, rank, tile width].

        They are made once: with few rows, slicing costs as much as a product.
        """
        views = self._windows.get(slots)
        if views is None:
            first, num = slots
            views = self.a[first : first + num], self.b[first : first + num].flatten(0, 1)
            self._windows[slots] = views
        return views
