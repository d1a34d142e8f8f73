"""Plans of attention as the C kernels take them."""

import ctypes
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from torch import Tensor

from alorakit.kernels import native_types as c
from alorakit.kernels.attention_types import AttentionPlan, Runs

# Rows whose results are kept at a time, besides those that several pieces have in common.
WAVE_ROWS = 256


class NativePlan:
    """A plan as the kernels take it, and what its addresses point to.

    Attributes:
        struct: The plan; valid while this object is there.
    """

    def __init__(self, plan: AttentionPlan) -> None:
        """Lay out a plan that has no ``blocks``: pairs of rows and blocks are for torch only."""
        assert plan.blocks is None, "pairs of rows and blocks are planned for torch only"
        self._plan = plan  # its masks
        self._rows: list[int] = []
        self._runs: list[int] = []
        self._targets: list[int] = []
        self._found, self._parts = [0], list[int]()
        self._pieces: list[c.Piece] = []
        self._waves: list[c.Wave] = []
        first = (0, 0, 0)
        for shared in plan.shared:
            self._add(shared.rows.tolist(), shared.runs, None)
        for span in plan.pieces:
            self._add(range(span.start, span.end), span.runs, span.mask)
        for span in plan.spans:
            if len(self._rows) + span.end - span.start - first[1] > WAVE_ROWS:
                first = self._end_wave(first)
            self._add(range(span.start, span.end), span.runs, span.mask)
        self._end_wave(first)
        lists = (self._rows, self._runs, self._targets, self._found, self._parts)
        waves, pieces = (c.Wave * len(self._waves))(*self._waves), (c.Piece * len(self._pieces))(*self._pieces)
        self._arrays = (waves, pieces, *map(int64_array, lists))
        self.struct = c.Attention(len(waves), *map(ctypes.addressof, self._arrays))

    def _add(self, rows: Sequence[int], runs: Runs, mask: Tensor | None) -> None:
        num_keys, tail = sum(end - start for start, end in runs), 0 if mask is None else mask.shape[1]
        where = (len(rows), len(self._rows), len(runs), len(self._runs) // 2)
        self._pieces.append(c.Piece(*where, num_keys, tail, address(mask)))
        self._rows += rows
        for run in runs:
            self._runs += run

    def _end_wave(self, first: tuple[int, int, int]) -> tuple[int, int, int]:
        """Close the wave that begins with the ``first`` piece, row and target; where the next one begins."""
        places: dict[int, list[int]] = {}
        for index in range(first[1], len(self._rows)):
            places.setdefault(self._rows[index], []).append(index)
        self._targets += places
        self._found += accumulate(map(len, places.values()), initial=self._found.pop())
        self._parts += [index for own in places.values() for index in own]
        end = (len(self._pieces), len(self._rows), len(self._targets))
        if end[0] > first[0]:
            self._waves.append(c.Wave(*(c.Range(*ends) for ends in zip(first, end, strict=True))))
        return end


def int64_array(values: Sequence[int]) -> Any:
    """``values`` as a C array."""
    return (ctypes.c_int64 * len(values))(*values)


def address(tensor: Tensor | None) -> int | None:
    """Where a tensor's first element is."""
    return None if tensor is None else tensor.data_ptr()
