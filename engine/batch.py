"""One step's rows as tensors: token ids, positions, where KV goes, who sees what, who is adapted."""

from dataclasses import dataclass

import torch
from torch import Tensor

from alorakit.engine.adapter_slots import AdapterSlots
from alorakit.engine.adapters import Adapter
from alorakit.engine.batched_adapters import BatchedAdapters
from alorakit.engine.block_pool import slot_runs
from alorakit.engine.branches import additive_mask
from alorakit.engine.model_config import ModelConfig
from alorakit.engine.scheduler import BlockCopy, Entry, Schedule
from alorakit.kernels.ops import AttentionSpan

# Query rows per attention call: tall enough for full matrix-product speed, short enough that a causal chunk
# skips most of what it must not see. Measured on 2 AMX cores, 2,048 rows: 10 ms a layer, against 18 for one call.
QUERY_CHUNK = 128


@dataclass(frozen=True)
class Batch:
    """What the runner needs for one forward pass.

    Attributes:
        token_ids: int64 [rows].
        positions: int64 [rows].
        copies: Blocks to copy before anything else, in order.
        writes: As in ``ops.kv_write``.
        spans: For each distinct sliding window of the model, as in ``ops.paged_attention``.
        adapters: Deltas to add, or None if no row is adapted.
        logits_rows: int64 [n], rows whose next-token logits are wanted.
        wanted: The entries those rows belong to, in order.
        entries: All entries, in row order.
    """

    token_ids: Tensor
    positions: Tensor
    copies: list[BlockCopy]
    writes: list[tuple[int, int, int]]
    spans: dict[int | None, list[AttentionSpan]]
    adapters: BatchedAdapters | None
    logits_rows: Tensor
    wanted: list[Entry]
    entries: list[Entry]


def build(
    plan: Schedule,
    config: ModelConfig,
    block_size: int,
    dtype: torch.dtype,
    device: torch.device,
    slots: AdapterSlots,
) -> Batch:
    """Lay the scheduled rows out one after the other; the adapters in use are resident in ``slots``.

    rows       | entry 0: tokens start … end, then its branches or draft | entry 1 …
    KV index   | start … end-1, end …                                    |
    """
    tokens: list[int] = []
    positions: list[int] = []
    writes: list[tuple[int, int, int]] = []
    segments: list[tuple[int, int, Adapter]] = []
    logits_rows: list[int] = []
    spans: dict[int | None, list[AttentionSpan]] = {window: [] for window in set(config.sliding_windows)}
    for entry in plan.entries:
        sequence, first = entry.sequence, len(tokens)
        stop = entry.start + entry.num_tokens
        tokens += [*sequence.tokens[entry.start : stop], *entry.draft]
        positions += range(entry.start, stop + len(entry.draft))
        branches = sequence.branches if entry.branches else None
        if branches is not None:
            tokens += branches.token_ids
            positions += [stop + p for p in branches.positions]
        row = first
        for begin, end in slot_runs(sequence.blocks, block_size, entry.start, entry.start + entry.num_rows):
            writes.append((row, row + end - begin, begin))
            row += end - begin
        for window, found in spans.items():
            found += _spans(entry, first, window, config, block_size, dtype, device)
        if sequence.adapter is not None and sequence.activation is not None:
            active = first + max(0, sequence.activation - entry.start)
            if active < len(tokens):
                _extend(segments, active, len(tokens), sequence.adapter)
        logits_rows += [first + row for row in entry.logits_rows]
    return Batch(
        token_ids=torch.tensor(tokens, device=device),
        positions=torch.tensor(positions, device=device),
        copies=plan.copies,
        writes=writes,
        spans=spans,
        adapters=BatchedAdapters(slots, segments) if segments else None,
        logits_rows=torch.tensor(logits_rows, dtype=torch.int64, device=device),
        wanted=[entry for entry in plan.entries if entry.logits_rows],
        entries=plan.entries,
    )


def _spans(
    entry: Entry,
    first: int,
    window: int | None,
    config: ModelConfig,
    block_size: int,
    dtype: torch.dtype,
    device: torch.device,
) -> list[AttentionSpan]:
    sequence, group = entry.sequence, config.num_heads // config.num_kv_heads
    trunk = entry.start + entry.num_tokens if entry.branches else None
    starts = [trunk + s for s in sequence.branches.starts] if trunk is not None and sequence.branches else []
    spans = []
    for offset in range(0, entry.num_rows, QUERY_CHUNK):
        end = min(offset + QUERY_CHUNK, entry.num_rows)
        kv_len = entry.start + end
        rows = range(entry.start + offset, kv_len)
        mask = additive_mask(rows, kv_len, group, dtype, device, trunk, starts, window)
        runs = slot_runs(sequence.blocks, block_size, 0, kv_len)
        spans.append(AttentionSpan(first + offset, first + end, runs, mask))
    return spans


def _extend(segments: list[tuple[int, int, Adapter]], start: int, end: int, adapter: Adapter) -> None:
    """Add a segment, merged with the one before it when that ends here and is the same adapter's."""
    if segments and segments[-1][1] == start and segments[-1][2] is adapter:
        segments[-1] = (segments[-1][0], end, adapter)
    else:
        segments.append((start, end, adapter))
