"""Adapters and projections for kernel tests: everything lies between NaNs, what must not be read is NaN."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from alorakit.kernels import reference
from alorakit.kernels.lora_rows import ROW_BLOCK, Lora, LoraRows, Projected
from alorakit.kernels.lora_table import LoraTable

from .devices import DEVICE, poisoned, randn

RANKS = (1, 8, 16, 33, 64, 32, 4)
NUM_SLOTS = len(RANKS)

# The slot of each of so many rows, or None.
POPULARITY = {
    "same": lambda rows: [3] * rows,
    "distinct": lambda rows: [row % NUM_SLOTS for row in range(rows)],
    "skewed": lambda rows: [min(NUM_SLOTS - 1, (row * 7919 % 64 + 1).bit_length() - 1) for row in range(rows)],
    "some": lambda rows: [None if row % 3 == 1 else (5, 1)[row % 2] for row in range(rows)],
    "last": lambda rows: [None] * (rows - 1) + [6],
}
# Every number of rows and every popularity; all pairs of them in the slow tests.
BATCHES = pytest.mark.parametrize(
    "rows,popularity",
    [
        pytest.param(rows, name, marks=[] if name == "distinct" or rows == 33 else [pytest.mark.slow])
        for rows in (1, 3, 7, 16, 17, 33, 64)
        for name in POPULARITY
    ],
)
# Likewise, with the room for ranks that a captured step has.
RANKS_AND_SPLITS = pytest.mark.parametrize(
    "rank,max_rank,splits",
    [
        pytest.param(rank, max_rank, splits, marks=[] if splits == 2 or rank == 33 else [pytest.mark.slow])
        for rank, max_rank in ((1, 64), (8, 64), (16, 128), (33, 64), (64, 64), (256, 256))
        for splits in (1, 2, 4)
    ],
)


def place(values: Tensor) -> Tensor:
    """A copy between NaNs, at a multiple of 256 bytes."""
    memory = poisoned(values.numel() + 1024 + 16 * values.shape[-1], dtype=values.dtype)
    first = 256 + -(memory.data_ptr() // memory.element_size()) % 256
    return memory[first : first + values.numel()].view(values.shape).copy_(values)


class Adapters:
    """Random weights, each between NaNs, and the table of their addresses: they are there as long as this is.

    Attributes:
        pairs: [slot][part], A [rank, in] and B [out, rank], or None: as the reference takes them.
        table: Their addresses, zero where a part is not adapted; ranks filled up to multiples of ``rank_step``.
        max_rank: The highest of those.
        widths: Of B, part by part.
        ranks: int64 [slots, parts], as in the table.
    """

    def __init__(
        self,
        ranks: Sequence[Sequence[int]],
        widths: Sequence[int],
        in_features: int,
        dtype: torch.dtype,
        rank_step: int = 1,
    ) -> None:
        self.widths, self.pairs = tuple(widths), []
        self.ranks = torch.tensor([[-(-rank // rank_step) * rank_step for rank in parts] for parts in ranks])
        pointers = torch.zeros(len(ranks), len(widths), 2, dtype=torch.int64)
        self._keep: list[Tensor] = []
        for slot, parts in enumerate(ranks):
            self.pairs.append([])
            for part, (rank, width) in enumerate(zip(parts, widths, strict=True)):
                if rank == 0:
                    self.pairs[-1].append(None)
                    continue
                padded = int(self.ranks[slot, part])
                a = place(torch.zeros(padded, in_features, dtype=dtype, device=DEVICE))
                b = place(torch.zeros(width, padded, dtype=dtype, device=DEVICE))
                a[:rank] = randn(rank, in_features, dtype=dtype, scale=in_features**-0.5)
                b[:, :rank] = randn(width, rank, dtype=dtype, scale=rank**-0.5)
                self._keep += [a, b]
                self.pairs[-1].append((a[:rank], b[:, :rank]))
                pointers[slot, part] = torch.tensor([a.data_ptr(), b.data_ptr()])
        ranks = self.ranks.to(torch.int32)
        self.table = LoraTable(pointers.to(DEVICE), ranks.to(DEVICE), self.widths)
        self.max_rank = max(1, int(ranks.max()))

    def lora(self, slots: Sequence[int | None], max_rank: int | None = None) -> Lora:
        """The table, and what the fused kernels must know of a batch; there is room for two adapters more."""
        num_blocks = -(-len(slots) // ROW_BLOCK)
        block_slots, counts = torch.full((num_blocks, ROW_BLOCK), -1), torch.zeros(num_blocks)
        for block in range(num_blocks):
            distinct = sorted({*slots[block * ROW_BLOCK : (block + 1) * ROW_BLOCK]} - {None})
            block_slots[block, : len(distinct)] = torch.tensor(distinct)
            counts[block] = len(distinct)
        groups = torch.tensor([*sorted({*slots} - {None}), -1, -1])
        # Beyond the batch's rows lie those of another batch.
        row_slot = torch.tensor([-1 if slot is None else slot for slot in slots] + [0] * 64)
        tensors = [tensor.to(DEVICE, torch.int32) for tensor in (row_slot, groups, block_slots, counts)]
        return Lora(self.table, LoraRows(tensors[0][: len(slots)], *tensors[1:], max_rank or self.max_rank))

    def written(self, slots: Sequence[int | None], max_rank: int) -> Tensor:
        """Bool [rows, parts, max_rank]: where an adapter's ``A x`` has a value."""
        none = torch.zeros(1, len(self.widths), dtype=torch.int64)
        ranks = torch.cat([self.ranks, none])[[-1 if slot is None else slot for slot in slots]]
        return (torch.arange(max_rank) < ranks[..., None]).to(DEVICE)


def projection(
    rows: int,
    width: int,
    splits: int = 1,
    adapters: Adapters | None = None,
    slots: Sequence[int | None] = (),
    max_rank: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[Projected, Tensor]:
    """Random sums, in ``dtype``, and ``A x`` of the adapted rows, NaN elsewhere; and the projection they stand for."""
    sums = place(randn(splits, rows, width, dtype=dtype, scale=splits**-0.5))
    if adapters is None:
        return Projected(sums), reference.projected(sums)
    lora = adapters.lora(slots, max_rank)
    low = randn(splits, rows, len(adapters.widths), lora.rows.max_rank, scale=splits**-0.5)
    low = place(low.where(adapters.written(slots, lora.rows.max_rank), float("nan")))
    return Projected(sums, low, lora), reference.projected(sums, low, adapters.pairs, adapters.widths, slots)
