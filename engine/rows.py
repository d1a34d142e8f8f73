"""One step's rows on the host: token ids, positions, where KV goes, who is adapted. Both runners start from these."""

from dataclasses import dataclass, field
from typing import NamedTuple

from alorakit.engine.adapters import Adapter
from alorakit.engine.block_pool import slot_runs
from alorakit.engine.schedule import BlockCopy, Entry, Schedule


class PlacedEntry(NamedTuple):
    """An entry and the first of its rows in the batch."""

    entry: Entry
    row: int


@dataclass
class Rows:
    """Rows laid out one after the other, each adapter's together.

    rows       | entry 0: tokens start … end, then its branches or draft | entry 1 …
    KV index   | start … end-1, end …                                    |

    Attributes:
        token_ids: Of each row.
        positions: Of each row.
        runs: Slots of the rows, in row order, as (first, one past last) runs of consecutive ones.
        segments: (first row, one past last row, adapter); other rows get no delta.
        logits_rows: Rows whose next-token logits are wanted.
        placed: Entries and where their rows begin, in row order.
        copies: Blocks to copy before anything else, in order.
    """

    token_ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    runs: list[tuple[int, int]] = field(default_factory=list)
    segments: list[tuple[int, int, Adapter]] = field(default_factory=list)
    logits_rows: list[int] = field(default_factory=list)
    placed: list[PlacedEntry] = field(default_factory=list)
    copies: list[BlockCopy] = field(default_factory=list)

    @classmethod
    def of(cls, plan: Schedule, block_size: int) -> "Rows":
        """Lay out what is scheduled."""
        plan.entries.sort(key=row_order)
        rows = cls(copies=plan.copies)
        for entry in plan.entries:
            rows._add(entry, block_size)
        return rows

    @property
    def entries(self) -> list[Entry]:
        """All entries, in row order."""
        return [placed.entry for placed in self.placed]

    @property
    def wanted(self) -> list[Entry]:
        """The entries that ``logits_rows`` belong to, in order."""
        return [placed.entry for placed in self.placed if placed.entry.logits_rows]

    def _add(self, entry: Entry, block_size: int) -> None:
        sequence, first = entry.sequence, len(self.token_ids)
        self.placed.append(PlacedEntry(entry, first))
        start = entry.start
        if entry.num_rows == 1:  # what most entries are
            slot = sequence.blocks[start // block_size] * block_size + start % block_size
            self.token_ids.append(sequence.tokens[start])
            self.positions.append(start)
            self.runs.append((slot, slot + 1))
        else:
            stop = start + entry.num_tokens
            self.token_ids += [*sequence.tokens[start:stop], *entry.draft]
            self.positions += range(start, stop + len(entry.draft))
            if entry.branches and sequence.branches is not None:
                self.token_ids += sequence.branches.token_ids
                self.positions += [stop + p for p in sequence.branches.positions]
            self.runs += slot_runs(sequence.blocks, block_size, start, start + entry.num_rows)
        if (adapter := sequence.active_adapter) is not None and sequence.activation is not None:
            active = first + max(0, sequence.activation - start)
            if active < len(self.token_ids):
                self._adapt(active, len(self.token_ids), adapter)
        self.logits_rows += [first + row for row in entry.logits_rows]

    def _adapt(self, start: int, end: int, adapter: Adapter) -> None:
        """Add a segment, merged with the one before it when that ends here and is the same adapter's."""
        if self.segments and self.segments[-1][1] == start and self.segments[-1][2] is adapter:
            self.segments[-1] = (self.segments[-1][0], end, adapter)
        else:
            self.segments.append((start, end, adapter))


def row_order(entry: Entry) -> str:
    """What entries are sorted by: rows of the same adapter are neighbours."""
    adapter = entry.sequence.active_adapter
    return "" if adapter is None else adapter.info.digest
