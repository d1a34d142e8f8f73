"""A decode step's arrays from those of the one before: most are the same, or one more in every row.

What a step must share with the one before: the same sequences in the same order, each with one row, the next one. A
table of blocks has room for one more; when that is used up, or a row is split over several items and begins a block,
the step is built as any other.
"""

from dataclasses import dataclass, replace

import numpy as np

from alorakit.engine.rows import row_order
from alorakit.engine.schedule import Entry, Schedule
from alorakit.engine.step_buffer import Array
from alorakit.engine.triton_batch import TritonBatch


class DecodeSteps:
    """Remembers the last batch; for full attention only, as a sliding window moves on with the rows."""

    def __init__(self, block_size: int) -> None:
        """``block_size``: slots of a block."""
        self._block_size = block_size
        self._last: _Last | None = None

    def forget(self) -> None:
        """Let go of the last batch and its sequences."""
        self._last = None

    def remember(self, batch: TritonBatch) -> None:
        """Keep a batch that was built as any is, if it can be followed."""
        decodes = all(entry.num_rows == 1 and entry.completes and not entry.branches for entry in batch.entries)
        self._last = _Last.of(batch, self._block_size) if decodes and batch.entries else None

    def follow(self, plan: Schedule) -> TritonBatch | None:
        """The batch of the step after the last one, or None if it is no such step."""
        last, size = self._last, self._block_size
        if last is None or len(plan.entries) != last.batch.num_rows:
            return None
        plan.entries.sort(key=row_order)
        if not all(map(_follows, plan.entries, last.batch.entries, last.blocks)):
            return None
        begun = [row for row, entry in enumerate(plan.entries) if entry.start % size == 0]
        if begun and not all(plan.entries[row].start // size == last.places[row] for row in begun):
            return None
        last.batch = _one_more(last, plan, begun, size)
        return last.batch


@dataclass
class _Last:
    """The last batch, and what following it needs to know.

    Attributes:
        batch: Its rows.
        blocks: Each row's block table. Another list means other blocks: the sequence was preempted, and let in again.
        newest: Items that end with their row's newest key; those of a prefix or of an earlier piece do not.
        tables: Where each row's blocks begin in the plan's tables.
        places: Index of the block that the plan's tables keep a place for, or -1: where rows are split over items,
            a new block may call for other pieces.
    """

    batch: TritonBatch
    blocks: list[list[int]]
    newest: Array
    tables: Array
    places: list[int]

    @classmethod
    def of(cls, batch: TritonBatch, block_size: int) -> "_Last":
        """Look at a batch of decoding rows."""
        (plan,) = batch.plans
        rows = plan.q_rows[plan.items[:, 0]]  # the first of each item
        tables = np.empty(batch.num_rows, np.int32)
        tables[rows] = plan.items[:, 2]
        return cls(
            batch=batch,
            blocks=[entry.sequence.blocks for entry in batch.entries],
            newest=np.flatnonzero(plan.items[:, 4] == plan.visible[rows, 1]).astype(np.int32),
            tables=tables,
            places=[-1 if plan.num_parts else entry.start // block_size + 1 for entry in batch.entries],
        )


def _follows(entry: Entry, before: Entry, blocks: list[int]) -> bool:
    sequence = entry.sequence
    same = sequence is before.sequence and sequence.blocks is blocks
    return same and entry.start == before.start + 1 and entry.num_rows == 1


def _one_more(last: _Last, step: Schedule, begun: list[int], block_size: int) -> TritonBatch:
    """The last batch with one more key for every row; rows ``begun`` begin a block."""
    batch, entries = last.batch, step.entries
    (plan,) = batch.plans
    items, visible, tables = plan.items.copy(), plan.visible.copy(), plan.tables
    items[last.newest, 4:] += 1  # kv_end and full_end
    visible[:, 1] += 1
    slots = batch.arrays["slots"] + 1
    if begun:
        tables = tables.copy()
        for row in begun:
            blocks, index = last.blocks[row], last.places[row]
            at = last.tables[row] + index
            tables[at - 1 : at + 1] = blocks[index - 1 : index + 1]  # the full one may be another's by now
            slots[row] = blocks[index] * block_size
    plan = replace(plan, items=items, visible=visible, tables=tables)
    arrays = {
        **batch.arrays,
        "token_ids": np.array([entry.sequence.tokens[entry.start] for entry in entries], np.int32),
        "positions": batch.arrays["positions"] + 1,
        "slots": slots,
        "0.items": items,
        "0.visible": visible,
        "0.tables": tables,
    }
    return replace(batch, arrays=arrays, plans=[plan], copies=step.copies, wanted=entries, entries=entries)
