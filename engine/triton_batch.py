"""One step's rows as int32 arrays for the Triton path."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from alorakit.engine.adapter_slots import AdapterSlots
from alorakit.engine.adapters import FUSED, Adapter
from alorakit.engine.rows import Rows
from alorakit.engine.schedule import BlockCopy, Entry
from alorakit.engine.step_buffer import Array
from alorakit.kernels import ops
from alorakit.kernels.ops import ROW_BLOCK, TilePlan

# Ranks for which a captured step has room: the next of these.
RANK_CLASSES = (64, 128, 256)
# Of TilePlan and TileTensors; the tables, which are long or short, come last.
TILE_ARRAYS = ("items", "q_rows", "q_parts", "visible", "row_parts", "tables")


@dataclass(frozen=True)
class LoraShape:
    """What a launch must know of a batch's adapters.

    Attributes:
        projections: Fused projections that any of them adapts.
        max_rank: Room for ranks.
        groups: Room for distinct adapters, a power of two; 0 for many rows, which do not ask.
        block_m: Rows of a tile; 0 for few rows, which have no tiles.
    """

    projections: tuple[str, ...]
    max_rank: int
    groups: int
    block_m: int


@dataclass(frozen=True)
class TritonBatch:
    """What the runner needs for one forward pass.

    Attributes:
        num_rows: Rows of the batch.
        arrays: Everything the kernels read, by name; attention's have the window's index in front.
        plans: Attention for each distinct window.
        lora: None if no row is adapted.
        copies: Blocks to copy before anything else, in order.
        logits_rows: Rows whose next-token logits are wanted.
        wanted: The entries those rows belong to, in order.
        entries: All entries, in row order.
    """

    num_rows: int
    arrays: dict[str, Array]
    plans: Sequence[TilePlan]
    lora: LoraShape | None
    copies: list[BlockCopy]
    logits_rows: list[int]
    wanted: list[Entry]
    entries: list[Entry]

    @property
    def token_ids(self) -> Array:
        """Of each row."""
        return self.arrays["token_ids"]


def build(rows: Rows, plans: Sequence[TilePlan], slots: AdapterSlots, few: bool) -> TritonBatch:
    """The arrays of laid-out rows.

    Args:
        rows: What they are.
        plans: Their attention, for each distinct window.
        slots: Where the adapters are.
        few: Whether they are few enough for the fused kernels.
    """
    lora: LoraShape | None = None
    adapted: dict[str, Array] = {}
    if rows.segments:
        lora, adapted = (_few_rows if few else _many_rows)(rows, slots)
    runs = [np.arange(*run, dtype=np.int32) for run in rows.runs]
    arrays = {
        "token_ids": np.array(rows.token_ids, np.int32),
        "positions": np.array(rows.positions, np.int32),
        "slots": np.concatenate(runs) if runs else np.empty(0, np.int32),
        "logits_rows": np.array(rows.logits_rows, np.int32),
        **adapted,
    }
    for index, plan in enumerate(plans):
        arrays |= {f"{index}.{name}": getattr(plan, name) for name in TILE_ARRAYS}
    return TritonBatch(
        num_rows=len(rows.token_ids),
        arrays=arrays,
        plans=plans,
        lora=lora,
        copies=rows.copies,
        logits_rows=rows.logits_rows,
        wanted=rows.wanted,
        entries=rows.entries,
    )


def _few_rows(rows: Rows, slots: AdapterSlots) -> tuple[LoraShape, dict[str, Array]]:
    """Each row's slot; the distinct slots of the batch and of every ROW_BLOCK rows."""
    num = len(rows.token_ids)
    row_slot = np.full(num, -1, np.int32)
    for start, end, adapter in rows.segments:
        row_slot[start:end] = slots.table_entry(adapter).slot
    num_blocks = -(-num // ROW_BLOCK)
    block_slots, block_counts = np.full((num_blocks, ROW_BLOCK), -1, np.int32), np.zeros(num_blocks, np.int32)
    for block in range(num_blocks):
        distinct = sorted({*row_slot[block * ROW_BLOCK : (block + 1) * ROW_BLOCK].tolist()} - {-1})
        block_slots[block, : len(distinct)] = distinct
        block_counts[block] = len(distinct)
    groups = np.array(sorted({*row_slot.tolist()} - {-1}), np.int32)
    shape = _shape(rows, slots, 1 << (len(groups) - 1).bit_length(), 0)
    names = {"row_slot": row_slot, "groups": groups, "block_counts": block_counts, "block_slots": block_slots}
    return shape, names


def _many_rows(rows: Rows, slots: AdapterSlots) -> tuple[LoraShape, dict[str, Array]]:
    """Tiles of adapted rows."""
    segments = [(start, end, slots.table_entry(adapter).slot) for start, end, adapter in rows.segments]
    block_m = ops.lora_block_m(segments)
    return _shape(rows, slots, 0, block_m), {"lora_tiles": ops.lora_tiles(segments, block_m)}


def _shape(rows: Rows, slots: AdapterSlots, groups: int, block_m: int) -> LoraShape:
    adapters: dict[str, Adapter] = {adapter.info.digest: adapter for _, _, adapter in rows.segments}
    entries = [slots.table_entry(adapter) for adapter in adapters.values()]
    projections = tuple(name for name in FUSED if any(name in entry.projections for entry in entries))
    rank = max(entry.rank for entry in entries)
    return LoraShape(projections, next(size for size in RANK_CLASSES if size >= rank), groups, block_m)
