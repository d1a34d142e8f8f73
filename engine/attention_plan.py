"""How a step's rows attend: long runs of one sequence by themselves, prefixes of several sequences once for all.

entry with many rows             a span for every 128 of them
entry with few rows              a span; or, where it shares a prefix with others, a piece for its own keys
eight or more single rows        their own keys as pairs of a row and a block
"""

from collections import defaultdict
from dataclasses import dataclass

import torch

from alorakit.engine.block_pool import slot_runs
from alorakit.engine.branches import additive_mask
from alorakit.engine.rows import PlacedEntry
from alorakit.engine.shared_prefixes import SharedPrefix, shared_prefixes
from alorakit.kernels.ops import AttentionPlan, AttentionSpan, BlockSpan, SharedSpan

# Query rows per span: tall enough for full matrix-product speed, short enough that a causal chunk skips most of what
# it must not see.
QUERY_CHUNK = 128
# A prefix is read once for entries of up to so many rows; with more, products and not reads are what takes time.
FEW_ROWS = 16
# From so many single rows on, pairs of rows and blocks in a few batched products beat one call per row.
MIN_BLOCK_ROWS = 8
# Blocks between two wanted ones that may be computed in vain for the sake of one longer run.
MAX_IDLE_BLOCKS = 4


@dataclass(frozen=True)
class Planner:
    """Plans attention for one sliding window (None: full attention); ``pairs``: whether single rows may be paired."""

    window: int | None
    block_size: int
    dtype: torch.dtype
    device: torch.device
    pairs: bool = True

    def plan(self, placed: list[PlacedEntry]) -> AttentionPlan:
        """The plan of a whole batch, its entries in row order."""
        few = [p for p in placed if p.entry.num_rows <= FEW_ROWS]
        prefixes, own = self._prefixes(few)
        single = [i for i, p in enumerate(few) if p.entry.num_rows == 1]
        paired = set(single) if self.pairs and len(single) >= MIN_BLOCK_ROWS else set()
        pieced = {m for prefix in prefixes for m in prefix.members} - paired
        alone = {id(p) for i, p in enumerate(few) if i not in paired and i not in pieced}
        spans = [s for p in placed if p.entry.num_rows > FEW_ROWS or id(p) in alone for s in self._spans(p)]
        num_rows = sum(p.entry.num_rows for p in placed)
        if not paired and not pieced:
            return AttentionPlan(num_rows, spans)
        shared = [self._shared(prefix, few) for prefix in prefixes]
        pieces = [self._span(few[i], 0, own[i] * self.block_size) for i in sorted(pieced)]
        where, blocks = self._pairs([few[i] for i in sorted(paired)], [own[i] for i in sorted(paired)])
        merged, parts = self._parts(shared, pieces, where, 0 if blocks is None else len(blocks.rows))
        return AttentionPlan(num_rows, spans, merged, shared, pieces, blocks, parts)

    def _prefixes(self, few: list[PlacedEntry]) -> tuple[list[SharedPrefix], list[int]]:
        if self.window is not None or len(few) < 2:
            return [], [0] * len(few)
        tables = [p.entry.sequence.blocks[: len(p.entry.sequence.nodes)] for p in few]
        return shared_prefixes(tables, self.block_size)

    def _shared(self, prefix: SharedPrefix, few: list[PlacedEntry]) -> SharedSpan:
        members = [few[m] for m in prefix.members]
        rows = [row for p in members for row in range(p.row, p.row + p.entry.num_rows)]
        blocks = members[0].entry.sequence.blocks
        runs = slot_runs(blocks, self.block_size, prefix.first * self.block_size, prefix.end * self.block_size)
        return SharedSpan(torch.tensor(rows, device=self.device), runs)

    def _spans(self, placed: PlacedEntry) -> list[AttentionSpan]:
        return [self._span(placed, offset, 0) for offset in range(0, placed.entry.num_rows, QUERY_CHUNK)]

    def _span(self, placed: PlacedEntry, offset: int, first_key: int) -> AttentionSpan:
        """Rows of an entry from ``offset`` on, and the keys from position ``first_key`` on."""
        entry, sequence = placed.entry, placed.entry.sequence
        end = min(offset + QUERY_CHUNK, entry.num_rows)
        rows = range(entry.start + offset, entry.start + end)
        trunk = entry.start + entry.num_tokens if entry.branches else None
        masked = rows.start if trunk is None else min(rows.start, trunk)  # every row sees the keys before
        if self.window is not None:
            masked = first_key = max(first_key, masked - self.window + 1)
        starts = [trunk + s for s in sequence.branches.starts] if trunk is not None and sequence.branches else []
        mask = additive_mask(rows, masked, self.dtype, self.device, trunk, starts, self.window)
        runs = slot_runs(sequence.blocks, self.block_size, first_key, rows.stop)
        return AttentionSpan(placed.row + offset, placed.row + end, runs, mask)

    def _pairs(self, placed: list[PlacedEntry], own: list[int]) -> tuple[dict[int, list[int]], BlockSpan | None]:
        """Pairs of single rows and their own blocks, in the blocks' order: neighbours make a run.

        Returns:
            For each row of the batch, where its pairs are; and the pairs.
        """
        if not placed:
            return {}, None
        wanted = []  # (block, row, first and one past last slot of the block that the row sees)
        for p, first in zip(placed, own, strict=True):
            end = p.entry.start + 1
            begin = max(first * self.block_size, 0 if self.window is None else end - self.window)
            for index in range(begin // self.block_size, -(-end // self.block_size)):
                start = index * self.block_size
                slots = (max(begin - start, 0), min(end - start, self.block_size))
                wanted.append((p.entry.sequence.blocks[index], p.row, *slots))
        pairs: list[tuple[int, int, int]] = []
        runs: list[tuple[int, int]] = []
        where: defaultdict[int, list[int]] = defaultdict(list)
        for block, row, low, high in sorted(wanted):
            gap = block - runs[-1][1] if runs else -1
            if 0 <= gap <= MAX_IDLE_BLOCKS:  # blocks between that nobody wants are computed along, and ignored
                pairs += [(row, 0, 0)] * gap
                runs[-1] = (runs[-1][0], block + 1)
            else:
                runs.append((block, block + 1))
            where[row].append(len(pairs))
            pairs.append((row, low, high))
        rows, low_slots, high_slots = torch.tensor(pairs).unbind(1)
        slot = torch.arange(self.block_size)
        seen = (slot >= low_slots[:, None]) & (slot < high_slots[:, None])
        mask = torch.zeros(seen.shape, dtype=self.dtype).masked_fill_(~seen, float("-inf"))
        return where, BlockSpan(rows.to(self.device), tuple(runs), mask[:, None].to(self.device), self.block_size)

    def _parts(
        self, shared: list[SharedSpan], pieces: list[AttentionSpan], where: dict[int, list[int]], num_pairs: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """``AttentionPlan.merged`` and ``.parts``."""
        found: defaultdict[int, list[int]] = defaultdict(list)
        rows = [row for span in shared for row in span.rows.tolist()]
        rows += [row for span in pieces for row in range(span.start, span.end)]
        for index, row in enumerate(rows):
            found[row].append(index)
        for row, indices in where.items():
            found[row] += [len(rows) + index for index in indices]
        nothing, most = len(rows) + num_pairs, max(map(len, found.values()))
        merged = sorted(found)
        parts = [found[row] + [nothing] * (most - len(found[row])) for row in merged]
        return torch.tensor(merged, device=self.device), torch.tensor(parts, device=self.device)
