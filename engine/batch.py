"""One step's rows as tensors, for the torch path."""

from dataclasses import dataclass

import torch
from torch import Tensor

from alorakit.engine.adapter_slots import AdapterSlots
from alorakit.engine.attention import AttentionInput, KVCache
from alorakit.engine.attention_plan import Planner
from alorakit.engine.batched_adapters import BatchedAdapters
from alorakit.engine.model import Decoder
from alorakit.engine.rows import Rows
from alorakit.engine.schedule import BlockCopy, Entry, Schedule


@dataclass(frozen=True)
class Batch:
    """What the runner needs for one forward pass.

    Attributes:
        token_ids: int64 [rows].
        positions: int64 [rows].
        copies: Blocks to copy before anything else, in order.
        attention: Where KV goes and who sees what.
        adapters: Deltas to add, or None if no row is adapted.
        logits_rows: int64 [n], rows whose next-token logits are wanted.
        wanted: The entries those rows belong to, in order.
        entries: All entries, in row order.
        native: Whether the model's form in C computes them.
    """

    token_ids: Tensor
    positions: Tensor
    copies: list[BlockCopy]
    attention: AttentionInput
    adapters: BatchedAdapters | None
    logits_rows: Tensor
    wanted: list[Entry]
    entries: list[Entry]
    native: bool


def build(plan: Schedule, model: Decoder, cache: KVCache, adapters: AdapterSlots) -> Batch:
    """Lay the scheduled rows out (see :class:`Rows`) and move them to the model's device."""
    rows, device = Rows.of(plan, cache.block_size), model.device
    native = model.native is not None and model.native.takes(len(rows.token_ids))
    plans = {
        window: Planner(window, cache.block_size, model.dtype, device, pairs=not native).plan(rows.placed)
        for window in set(model.config.sliding_windows)
    }
    runs = rows.runs
    slots = torch.cat([torch.arange(*run) for run in runs]) if runs else torch.empty(0, dtype=torch.int64)
    return Batch(
        token_ids=torch.tensor(rows.token_ids, dtype=torch.int64, device=device),
        positions=torch.tensor(rows.positions, dtype=torch.int64, device=device),
        copies=rows.copies,
        attention=AttentionInput(slots.to(device), tuple(runs), plans),
        adapters=BatchedAdapters(adapters, rows.segments) if rows.segments else None,
        logits_rows=torch.tensor(rows.logits_rows, dtype=torch.int64, device=device),
        wanted=rows.wanted,
        entries=rows.entries,
        native=native,
    )
