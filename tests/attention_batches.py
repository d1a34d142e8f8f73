"""Batches for tests of attention: entries with blocks, and which keys each of their rows sees, by brute force."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import torch

from alorakit import SamplingParams
from alorakit.engine.attention_plan import PlacedEntry
from alorakit.engine.branches import Branches, additive_mask
from alorakit.engine.schedule import Entry


@dataclass(frozen=True)
class Rows:
    """Rows of one entry.

    Attributes:
        start: Keys before them.
        num: Tokens.
        draft: Rows of a draft after them.
        candidates: Lengths of the candidates whose branches follow.
        prefix: Name of a prefix shared with the other entries of that name, and its blocks.
    """

    start: int
    num: int = 1
    draft: int = 0
    candidates: tuple[int, ...] = ()
    prefix: tuple[tuple[str, int], ...] = ()


def place(batch: Sequence[Rows], block_size: int, seed: int = 0) -> tuple[list[PlacedEntry], int]:
    """Entries with scattered blocks, and how many blocks the cache needs."""
    needed = sum(-(-(rows.start + rows.num + rows.draft + sum(rows.candidates)) // block_size) for rows in batch)
    free = list(range(needed + 3))
    random.Random(seed).shuffle(free)
    prefixes: dict[str, list[int]] = {}
    placed, row = [], 0
    for rows in batch:
        shared: list[int] = []
        for name, blocks in rows.prefix:
            shared += prefixes.setdefault(name, [free.pop() for _ in range(blocks)])
        assert len(shared) * block_size <= rows.start
        branches = Branches.of([range(length) for length in rows.candidates]) if rows.candidates else None
        num_branch_rows = branches.num_rows if branches else 0
        end = rows.start + rows.num + rows.draft + num_branch_rows
        blocks = shared + [free.pop() for _ in range(-(-end // block_size) - len(shared))]
        sequence = SimpleNamespace(
            nodes=shared, blocks=blocks, branches=branches, num_branch_rows=num_branch_rows, sampling=SamplingParams()
        )
        entry = Entry(sequence, rows.start, rows.num, True, bool(rows.candidates), tuple(range(rows.draft)))
        placed.append(PlacedEntry(entry, row))
        row += entry.num_rows
    return placed, needed + 3


def visible(placed: PlacedEntry, window: int | None) -> torch.Tensor:
    """Bool [rows, keys] of one entry."""
    entry = placed.entry
    end, branches = entry.start + entry.num_rows, entry.sequence.branches
    trunk = entry.start + entry.num_tokens if branches else None
    starts = [entry.start + entry.num_tokens + start for start in branches.starts] if branches else []
    mask = additive_mask(
        range(entry.start, end), 0, torch.float32, torch.device("cpu"), trunk, starts, window if window else end + 1
    )
    return torch.ones(entry.num_rows, end, dtype=torch.bool) if mask is None else mask == 0


def slots(placed: PlacedEntry, block_size: int) -> torch.Tensor:
    """int64 [keys], where an entry's keys are."""
    index = torch.arange(placed.entry.start + placed.entry.num_rows)
    return torch.tensor(placed.entry.sequence.blocks)[index // block_size] * block_size + index % block_size
