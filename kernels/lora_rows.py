"""Which rows of a small batch want which adapter, and projections that are not finished yet."""

from dataclasses import dataclass

from torch import Tensor

from alorakit.kernels.lora_table import LoraTable

# Rows that one program of the fused kernels holds; the adapters of so many neighbouring rows are listed together.
ROW_BLOCK = 16


@dataclass(frozen=True)
class LoraRows:
    """Which rows of a batch want which adapter.

    Attributes:
        row_slot: int32 [rows], slot of each row; -1 for none.
        groups: int32 [most distinct slots], the distinct slots, then -1.
        block_slots: int32 [row blocks, ROW_BLOCK], the distinct slots of each block of ROW_BLOCK rows.
        block_counts: int32 [row blocks], how many there are.
        max_rank: No adapter of the batch has a higher one.
    """

    row_slot: Tensor
    groups: Tensor
    block_slots: Tensor
    block_counts: Tensor
    max_rank: int


@dataclass(frozen=True)
class Lora:
    """A batch's adapters for one packed projection."""

    table: LoraTable
    rows: LoraRows


@dataclass(frozen=True)
class Projected:
    """What a projection gave; the kernel that reads it finishes the sums and adds ``low B``.

    Attributes:
        sums: [splits, rows, out_features], float32 or the compute dtype: to be summed over splits.
        low: float32 [splits, rows, num_parts, max_rank], likewise; only adapted rows are written. None: no adapters.
        lora: Whose ``low`` it is.
    """

    sums: Tensor
    low: Tensor | None = None
    lora: Lora | None = None
