"""One step's rows as tensors: token ids, positions, where KV goes, who sees what, who is adapted."""

from dataclasses import dataclass

import torch
from torch import Tensor

from alorakit.engine.adapter_slots import AdapterSlots
from alorakit.engine.adapters import Adapter
from alorakit.engine.attention import AttentionInput, KVCache
from alorakit.engine.attention_plan import PlacedEntry, Planner
from alorakit.engine.batched_adapters import BatchedAdapters
from alorakit.engine.block_pool import slot_runs
from alorakit.engine.model import Decoder
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
    """

    token_ids: Tensor
    positions: Tensor
    copies: list[BlockCopy]
    attention: AttentionInput
    adapters: BatchedAdapters | None
    logits_rows: Tensor
    wanted: list[Entry]
    entries: list[Entry]


def build(plan: Schedule, model: Decoder, cache: KVCache, adapters: AdapterSlots) -> Batch:
    """Lay the scheduled rows out one after the other, each adapter's together; ``adapters`` holds those in use.

    rows       | entry 0: tokens start … end, then its branches or draft | entry 1 …
    KV index   | start … end-1, end …                                    |
    """
    plan.entries.sort(key=_adapter)
    tokens: list[int] = []
    positions: list[int] = []
    runs: list[tuple[int, int]] = []
    segments: list[tuple[int, int, Adapter]] = []
    logits_rows: list[int] = []
    placed: list[PlacedEntry] = []
    for entry in plan.entries:
        sequence, first = entry.sequence, len(tokens)
        placed.append(PlacedEntry(entry, first))
        stop = entry.start + entry.num_tokens
        tokens += [*sequence.tokens[entry.start : stop], *entry.draft]
        positions += range(entry.start, stop + len(entry.draft))
        if entry.branches and sequence.branches is not None:
            tokens += sequence.branches.token_ids
            positions += [stop + p for p in sequence.branches.positions]
        runs += slot_runs(sequence.blocks, cache.block_size, entry.start, entry.start + entry.num_rows)
        if sequence.adapter is not None and sequence.activation is not None:
            active = first + max(0, sequence.activation - entry.start)
            if active < len(tokens):
                _extend(segments, active, len(tokens), sequence.adapter)
        logits_rows += [first + row for row in entry.logits_rows]
    device = model.device
    plans = {
        window: Planner(window, cache.block_size, model.dtype, device).plan(placed)
        for window in set(model.config.sliding_windows)
    }
    slots = torch.cat([torch.arange(*run) for run in runs]) if runs else torch.empty(0, dtype=torch.int64)
    return Batch(
        token_ids=torch.tensor(tokens, dtype=torch.int64, device=device),
        positions=torch.tensor(positions, dtype=torch.int64, device=device),
        copies=plan.copies,
        attention=AttentionInput(slots.to(device), tuple(runs), plans),
        adapters=BatchedAdapters(adapters, segments) if segments else None,
        logits_rows=torch.tensor(logits_rows, dtype=torch.int64, device=device),
        wanted=[entry for entry in plan.entries if entry.logits_rows],
        entries=plan.entries,
    )


def _adapter(entry: Entry) -> str:
    sequence = entry.sequence
    return "" if sequence.adapter is None or sequence.activation is None else sequence.adapter.info.digest


def _extend(segments: list[tuple[int, int, Adapter]], start: int, end: int, adapter: Adapter) -> None:
    """Add a segment, merged with the one before it when that ends here and is the same adapter's."""
    if segments and segments[-1][1] == start and segments[-1][2] is adapter:
        segments[-1] = (segments[-1][0], end, adapter)
    else:
        segments.append((start, end, adapter))
