"""Attention as a work list: which query rows go over which keys in one program, and with which tile sizes.

item     query rows (up to a tile of them, of one sequence or of several that share a prefix) x a range of keys
partial  the result of a row for one of its several items; they are merged by their log-sum-exp
"""

from dataclasses import dataclass
from typing import Literal, Self, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.int32]

TileClass = Literal["decode", "suffix", "prefill"]
TILE_CLASSES: tuple[TileClass, ...] = get_args(TileClass)  # from the smallest tile to the largest

# Columns of ``items``: q_start, q_count, table_start, kv_begin, kv_end, full_end.
ITEM_FIELDS = 6

# (tile class, bytes of an element) -> for padded head_dim up to 64, 128, 256: (BLOCK_M, BLOCK_N, warps, stages).
# Chosen for Hopper (227 KB of shared memory) within what sm_80 has (163 KB), without register spills on either.
# Decode tiles, and suffix tiles up to 128, leave room for two programs on an SM: one loads while the other computes.
# 16-bit tiles of 64 rows and more are wgmma's, 64 rows for each four warps; heads of 256 take eight warps for 64 rows,
# which share the columns. float32 is there for exactness (no tensor cores), not for speed.
_SIZES: dict[tuple[TileClass, int], tuple[tuple[int, int, int, int], ...]] = {
    ("decode", 2): ((16, 64, 4, 4), (16, 64, 4, 3), (16, 32, 8, 3)),
    ("suffix", 2): ((64, 64, 4, 3), (64, 64, 4, 2), (64, 32, 8, 3)),
    ("prefill", 2): ((128, 64, 4, 3), (128, 64, 8, 3), (64, 64, 8, 2)),
    ("decode", 4): ((16, 32, 8, 2), (16, 32, 8, 2), (16, 32, 8, 2)),
    ("suffix", 4): ((32, 32, 4, 2), (32, 64, 8, 2), (32, 16, 8, 2)),
    ("prefill", 4): ((64, 32, 8, 2), (32, 64, 8, 2), (32, 16, 8, 2)),
}
MAX_HEAD_DIM = 256
MAX_GROUP = 128


@dataclass(frozen=True)
class Tile:
    """Launch settings of the attention kernel.

    Attributes:
        block_m: Query rows times heads of a group that one program holds.
        block_n: Keys of one step of its loop.
        num_warps: Warps of a program.
        num_stages: Depth of the pipeline of loads.
    """

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int

    @classmethod
    def of(cls, tile_class: TileClass, head_dim: int, group: int, element_size: int) -> "Tile":
        """The settings in use.

        Args:
            tile_class: "decode", "suffix" or "prefill".
            head_dim: 1 to 256.
            group: Query heads per KV head, up to 128; a tile has room for at least one row.
            element_size: Bytes of the compute dtype.

        Raises:
            ValueError: head_dim or group out of range.
        """
        if not (0 < head_dim <= MAX_HEAD_DIM and 0 < group <= MAX_GROUP):
            raise ValueError(f"attention takes head_dim up to 256 and 128 heads a group, not {head_dim} and {group}")
        sizes = _SIZES[tile_class, element_size]
        block_m, block_n, warps, stages = sizes[0 if head_dim <= 64 else 1 if head_dim <= 128 else 2]
        return cls(max(block_m, power_of_two(group)), block_n, warps, stages)

    def rows(self, group: int) -> int:
        """Query rows that one item holds at most."""
        return self.block_m // group


@dataclass(frozen=True)
class TilePlan:
    """One step's attention for one sliding window, on the host: int32 arrays, C-contiguous.

    Attributes:
        tile_class: Which tile the items are cut for.
        items: [n, 6], longest first: q_start, q_count, table_start, kv_begin, kv_end, full_end. Key j of an item is in
            block ``tables[table_start + j // block_size]``; every row of the item sees keys kv_begin to full_end.
            An item of q_count 0 is idle.
        q_rows: [refs] batch row of each query of each item, from the item's q_start on.
        q_parts: [refs] partial to write, or -1: the row has no other item, so its result goes straight to the output.
        tables: [entries] block ids.
        visible: [rows, 4] a0, a1, b0, b1: the row sees key j iff a0 <= j < a1 or b0 <= j < b1.
        row_parts: [rows, 2] first partial and number of partials; (0, 0) where there is nothing to merge.
        num_parts: Partials in all.
    """

    tile_class: TileClass
    items: Array
    q_rows: Array
    q_parts: Array
    tables: Array
    visible: Array
    row_parts: Array
    num_parts: int

    @property
    def arrays(self) -> tuple[Array, ...]:
        """The arrays in the order of :class:`TileTensors`."""
        return self.items, self.q_rows, self.q_parts, self.tables, self.visible, self.row_parts


@dataclass(frozen=True)
class TileTensors:
    """The arrays of :class:`TilePlan` on the device: int32, contiguous, each on a 16-byte boundary.

    They may be longer than the plan: idle items have q_count 0, rows beyond the batch (0, 0) in ``row_parts``.
    """

    items: Tensor
    q_rows: Tensor
    q_parts: Tensor
    tables: Tensor
    visible: Tensor
    row_parts: Tensor

    @classmethod
    def of(cls, plan: TilePlan, device: torch.device) -> Self:
        """Copies of a plan's arrays, one by one; a step of the engine sends them together with all else it needs."""
        return cls(*(torch.tensor(array, device=device) for array in plan.arrays))


def power_of_two(number: int) -> int:
    """The smallest power of two that is at least ``number``."""
    return 1 << (number - 1).bit_length()
