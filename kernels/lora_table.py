"""Where adapters' weights lie, as addresses, and which rows use them: what the prefill kernel is launched with.

A tile is a few neighbouring rows of one adapter, so that a kernel's program reads one A and one B:

    rows     0 ……… 69 | 70 71 72 | 73 ……… 139        segments (0, 70, slot 4), (73, 140, slot 1)
    tiles    [0,64) [64,70)       [73,137) [137,140)    slots   4, 4, 1, 1; block_m = 64
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

MAX_PARTS = 3  # q, k, v


@dataclass(frozen=True)
class LoraTable:
    """Addresses of the adapters' weights for one fused projection of one layer.

    Adapters come and go by writing ``pointers`` and ``ranks`` in place, so captured CUDA graphs stay valid.

    Attributes:
        pointers: int64 [num_slots, num_parts, 2]: device addresses, multiples of 16 bytes, of A [rank, in_features]
            and B [out_features, rank], both contiguous, in the compute dtype, LoRA scaling included in B.
        ranks: int32 [num_slots, num_parts], up to 256; 0 where a part (linear layer) is not adapted. The fused kernels
            want multiples of 8.
        widths: out_features of every part, at most three.
    """

    pointers: Tensor
    ranks: Tensor
    widths: tuple[int, ...]


def lora_tiles(segments: Iterable[tuple[int, int, int]], block_m: int) -> npt.NDArray[np.int32]:
    """Cut segments into tiles; neighbouring segments of one slot are cut as one.

    Args:
        segments: (first row, one past last row, slot); no row in two of them. Other rows get no delta.
        block_m: Most rows of a tile.

    Returns:
        int32 [num_tiles, 3]: first row, number of rows, slot. Rows of slot -1 may be appended: they do nothing.
    """
    merged: list[tuple[int, int, int]] = []
    for start, end, slot in sorted(segments):
        if merged and merged[-1][1:] == (start, slot):
            merged[-1] = (merged[-1][0], end, slot)
        else:
            merged.append((start, end, slot))
    tiles = [(row, min(block_m, end - row), slot) for start, end, slot in merged for row in range(start, end, block_m)]
    return np.array(tiles, dtype=np.int32).reshape(-1, 3)


def lora_block_m(segments: Iterable[tuple[int, int, int]]) -> int:
    """Rows of a tile for :func:`lora_tiles`: as few as the matrix unit takes where every segment is short."""
    return 16 if max((end - start for start, end, _ in segments), default=0) <= 16 else 64
