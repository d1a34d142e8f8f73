"""From units of attention to the kernel's work list: split to fill the device, longest first, partials numbered.

unit     a tile of rows and all keys it goes over: rows of one entry and their own keys, or rows of several entries
         and a prefix they share
item     a unit, or one of the ranges of keys it is split into so that the items fill the device
partial  what one item says about a row that is in several; the kernel merges them
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.int32]

# Units are split until items x KV heads make so many programs per SM: as many as run at once, where tiles are small.
# Of the largest tiles one fills an SM.
PROGRAMS_PER_SM = 2
# Fewer keys than this are not worth a partial result and its merging; a multiple of every tile's step.
MIN_SPLIT = 128


@dataclass(frozen=True)
class Units:
    """Arrays with an element for each unit.

    Attributes:
        refs: Rows of the batch; ``refs[start : start + count]`` are a unit's.
        start: See ``refs``.
        count: See ``refs``.
        table: Where the unit's block table has key 0's block.
        begin: First key.
        end: One past the last key.
        full: All rows of the unit see keys ``begin`` to ``full``.
    """

    refs: Array
    start: Array
    count: Array
    table: Array
    begin: Array
    end: Array
    full: Array


def programs_per_head(num_sms: int, num_kv_heads: int) -> int:
    """Items that fill a device of so many multiprocessors."""
    return max(1, PROGRAMS_PER_SM * num_sms // num_kv_heads)


def work_list(units: Units, step: int, num_programs: int) -> tuple[Array, Array]:
    """``TilePlan.items`` and ``TilePlan.q_rows``.

    Args:
        units: At least one.
        step: Keys of one step of the kernel's loop; units are cut at its multiples.
        num_programs: From :func:`programs_per_head`.
    """
    base = units.begin // step * step
    span = units.end - base
    share = -(-int(span.sum()) // num_programs)  # with it, no more cuts are made than num_programs
    share = max(MIN_SPLIT, -(-share // step) * step)
    of: Array | slice = slice(None)
    begin, end, full = units.begin, units.end, units.full
    if int(span.max()) > share:
        pieces = -(-span // share)
        even = (span + pieces - 1) // pieces
        length = -(-even // step) * step  # pieces of a unit are as equal as steps allow
        pieces = -(-span // length)
        of = np.repeat(np.arange(len(span), dtype=np.int32), pieces)
        piece = _places(pieces)
        low = base[of] + piece * length[of]
        begin, end = np.maximum(low, begin[of]), np.minimum(low + length[of], end[of])
        full = np.minimum(np.maximum(full[of], begin), end)
    items = np.empty((len(begin), 6), np.int32)
    items[:, 0], items[:, 1], items[:, 2] = units.start[of], units.count[of], units.table[of]
    items[:, 3], items[:, 4], items[:, 5] = begin, end, full
    if len(items) > 1:
        items = items[np.argsort(begin - end, kind="stable")]
    start, count = items[:, 0].copy(), items[:, 1]
    refs = start
    if int(count.max()) > 1:
        refs = np.repeat(start, count) + _places(count)
        items[:, 0] = np.cumsum(count) - count
    else:
        items[:, 0] = np.arange(len(items))
    return items, units.refs[refs]


def number_partials(q_rows: Array, num_rows: int) -> tuple[Array, Array, int]:
    """``TilePlan.q_parts``, ``.row_parts`` and ``.num_parts``: a row's partials are neighbours."""
    row_parts = np.zeros((num_rows, 2), np.int32)
    q_parts = np.full(len(q_rows), -1, np.int32)
    if len(q_rows) == num_rows:  # each row is somewhere, so each is in one item
        return q_parts, row_parts, 0
    times = np.bincount(q_rows, minlength=num_rows)
    times[times == 1] = 0
    first = np.cumsum(times) - times
    row_parts[:, 0], row_parts[:, 1] = np.where(times > 0, first, 0), times
    order = np.argsort(q_rows, kind="stable")
    order = order[times[q_rows[order]] > 0]  # references of the rows with partials, row by row
    q_parts[order] = np.arange(len(order))
    return q_parts, row_parts, len(order)


def _places(counts: Array) -> Array:
    """0 … c-1 for each count c, one after the other."""
    ends = np.cumsum(counts, dtype=np.int32)
    return np.arange(ends[-1], dtype=np.int32) - np.repeat(ends - counts, counts)
