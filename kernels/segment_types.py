"""Which keys the rows of one sequence see: what attention over a kept prefix is told."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class RowBlock:
    """Consecutive rows, and the keys they see. Keys are counted over the kept ones, then the rows' own.

        key        0 … first_key-1 | first_key … masked-1 | masked …  | num_kept + end …
        the rows   none sees it    | all see it           | mask says | none sees it

    Attributes:
        start: First row.
        end: One past the last row.
        first_key: First key that any of the rows sees.
        masked: First key that not all of them see.
        mask: Additive, 0 or -inf, [end - start, num_kept + end - masked]; None if it would be empty.
    """

    start: int
    end: int
    first_key: int
    masked: int
    mask: Tensor | None


@dataclass(frozen=True)
class SegmentPlan:
    """The rows of one sequence in blocks, for all layers with the same window.

    Attributes:
        num_kept: Keys that were kept from before.
        blocks: Every row once, in order.
        causal: Whether every row sees exactly the keys up to its own.
    """

    num_kept: int
    blocks: Sequence[RowBlock]
    causal: bool = False

    @cached_property
    def whole(self) -> Tensor:
        """The additive mask of all rows and keys, [rows, num_kept + rows] of 0 and -inf."""
        num_rows = self.blocks[-1].end
        sample = next((block.mask for block in self.blocks if block.mask is not None), torch.zeros(()))
        whole = sample.new_full((num_rows, self.num_kept + num_rows), float("-inf"))
        for block in self.blocks:
            whole[block.start : block.end, block.first_key : self.num_kept + block.end] = 0
            if block.mask is not None:
                whole[block.start : block.end, block.masked : self.num_kept + block.end] = block.mask
        return whole
