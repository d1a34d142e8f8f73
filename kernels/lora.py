"""Low-rank deltas of several adapters in one flat batch: their weights stacked, batched products in plain torch.

A batch is cut once per step into windows of neighbouring slots; each window is then one batched product per matrix:

    slots    | 0        | 1        | 2 (no row) | 3        |   stack.a [slots, in, ranks]
    places   | r4 r5 -- | r0 -- -- | -- -- --   | r1 r2 r3 |   x gathered and padded: [slots, width, in]

The rules below are fixed, not tuned at run time; each says what was measured (SmolLM2-135M's shapes, rank 32 on
q/k/v, 30 layers, 2 AVX512-BF16 cores).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from alorakit.kernels.lora_stack import LoraStack

# Slots of up to this many rows share windows: padding is nearly free, for reading weights costs more than products.
FEW_ROWS = 8
# A window of more places is computed in the compute dtype, others in float32 where there are such weights. One row
# of 576 features: 35 us in float32, 52 in bfloat16; 4 slots of 8 rows: 156 and 137; 8 of 16: 434 and 283.
FEW_PLACES = 16
# Slots of more rows are alone in their windows, for the products are large enough by themselves.
MANY_ROWS = 64
# A slot without rows is read along if its weights are no larger: another window's calls take as long.
GAP_BYTES = 1 << 20
# Hidden size from which no float32 weights are kept: reading them costs what the cheaper calls save.
WIDE = 2048


@dataclass(frozen=True)
class LoraWindow:
    """Neighbouring slots that share one batched product, the rows of each padded to ``width``.

    Attributes:
        slots: First slot, number of slots.
        width: Rows of each; place ``slot * width + j`` is row j of a slot.
        gather: Rows of ``x`` at the places: a slice, or int64 [number of places].
        places: Place of each adapted row, int64 [rows]; None if rows are consecutive and fill the places in order.
        rows: The adapted rows in ``out``: a slice, or int64 [rows].
    """

    slots: tuple[int, int]
    width: int
    gather: slice | Tensor
    places: Tensor | None
    rows: slice | Tensor


def lora_delta(out: Tensor, x: Tensor, stack: LoraStack, windows: Iterable[LoraWindow]) -> None:
    """See :func:`alorakit.kernels.ops.lora_delta`."""
    for window in windows:
        num, width = window.slots[1], window.width
        weights = stack if stack.few_rows is None or num * width > FEW_PLACES else stack.few_rows
        a, b = weights.window(window.slots)
        rank, tile = b.shape[1], b.shape[2]
        low = torch.bmm(_take(x, window.gather).to(a.dtype).view(num, width, -1), a)
        low = low.view(num, width, -1, rank).transpose(1, 2)
        if stack.tile_parts is not None:
            low = low.index_select(1, stack.tile_parts)
        delta = torch.bmm(low.reshape(-1, width, rank), b).view(num, -1, width, tile).transpose(1, 2)
        if window.places is None and delta.numel() == out.numel():  # every row and column
            out.view(delta.shape).add_(delta)
            continue
        for first, last, start in stack.runs:
            _add(out, window, start, delta[:, :, first:last])


def _add(out: Tensor, window: LoraWindow, start: int, delta: Tensor) -> None:
    """Add the adapted rows of ``delta`` [num, width, tiles, tile width] to ``out`` from column ``start`` on."""
    shape = delta.shape
    columns = shape[2] * shape[3]
    if columns != out.shape[1]:
        out = out[:, start : start + columns]
    if window.places is None:
        assert isinstance(window.rows, slice)
        _take(out, window.rows).view(shape).add_(delta)
        return
    delta = delta.reshape(-1, columns).index_select(0, window.places)
    if isinstance(window.rows, slice):
        _take(out, window.rows).add_(delta)
    else:
        out.index_add_(0, window.rows, delta.to(out.dtype))


def _take(x: Tensor, index: slice | Tensor) -> Tensor:
    """Rows of ``x``; a view where ``index`` is a slice."""
    if isinstance(index, slice):
        return x if index.stop - index.start == x.shape[0] else x[index]
    return x.index_select(0, index)


def plan_windows(
    segments: Iterable[tuple[int, int, int]], slot_bytes: int, device: torch.device
) -> tuple[LoraWindow, ...]:
    """See :func:`alorakit.kernels.ops.lora_windows`."""
    rows: dict[int, list[int]] = {}
    for start, end, slot in sorted(segments):
        rows.setdefault(slot, []).extend(range(start, end))
    classes: dict[int, list[int]] = {}
    for slot in sorted(rows):
        classes.setdefault(_size_class(len(rows[slot])), []).append(slot)
    windows = []
    for size, slots in classes.items():
        gap = GAP_BYTES // max(1, slot_bytes) if size == 0 else 0
        for run in _runs(slots, gap) if 1 << size <= MANY_ROWS else [[slot] for slot in slots]:
            windows.append(_window({slot: rows[slot] for slot in run}, device))
    return tuple(windows)


def _size_class(num_rows: int) -> int:
    """Slots of one class share windows: up to FEW_ROWS rows, then doubling, so that little is padded."""
    return 0 if num_rows <= FEW_ROWS else (num_rows - 1).bit_length()


def _runs(slots: list[int], gap: int) -> list[list[int]]:
    """Sorted ``slots`` cut wherever more than ``gap`` others lie between two of them."""
    runs = [slots[:1]]
    for last, slot in pairwise(slots):
        if slot - last - 1 > gap:
            runs.append([])
        runs[-1].append(slot)
    return runs


def _window(rows: dict[int, list[int]], device: torch.device) -> LoraWindow:
    """One window over the slots of ``rows`` (slot -> its rows) and those between them."""
    first, width = min(rows), max(map(len, rows.values()))
    num = max(rows) - first + 1
    gather = [0] * (num * width)
    place_of: dict[int, int] = {}
    for slot, own in rows.items():
        for offset, row in enumerate(own):
            place_of[row] = place = (slot - first) * width + offset
            gather[place] = row
    ordered = sorted(place_of)
    places, indices = [place_of[row] for row in ordered], _index(ordered, device)
    plain = isinstance(indices, slice) and places == list(range(len(gather)))
    return LoraWindow(
        slots=(first, num),
        width=width,
        gather=_index(gather, device),
        places=None if plain else torch.tensor(places, device=device),
        rows=indices,
    )


def _index(rows: list[int], device: torch.device) -> slice | Tensor:
    """Consecutive rows as a slice, so that a view does instead of a copy."""
    if rows == list(range(rows[0], rows[0] + len(rows))):
        return slice(rows[0], rows[0] + len(rows))
    return torch.tensor(rows, device=device)
