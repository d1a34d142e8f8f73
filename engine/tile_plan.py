"""A step's attention as a work list for the Triton kernel, planned on the host: numpy alone, no tensor, no device.

entry with few rows    one tile, its keys split over several programs where the batch does not fill the device
entry with many rows   tiles as equal as can be, each over the keys its rows may see
shared prefix          rows of all its entries in tiles of their own; the entries' tiles begin after it
"""

from array import array
from dataclasses import dataclass

import numpy as np

from alorakit.engine.rows import PlacedEntry
from alorakit.engine.shared_prefixes import SharedPrefix, shared_prefixes
from alorakit.engine.tile_items import PROGRAMS_PER_SM, Array, Units, number_partials, programs_per_head, work_list
from alorakit.kernels.ops import TILE_CLASSES, Tile, TileClass, TilePlan

# Entries of more rows have tiles of their own to fill: a shared prefix would save them few reads.
SHARING_ROWS = 16
# Prefixes of prefixes: a system prompt, and a document below it. More would only make more partials.
SHARING_LEVELS = 2
# A tile of fewer rows than this has none to spare for another sequence's.
SHARING_TILE_ROWS = 4
# Sharing is worth a larger tile for all if it saves at least one key in so many.
SHARING_PAYS = 8
# Rows that a tile has at most: BLOCK_M of the largest, for one head a group.
MAX_TILE_ROWS = 128


def max_items(rows: int, num_sms: int, num_kv_heads: int, units: int | None = None) -> int:
    """Items that no plan of so many rows exceeds.

    Every entry's tiles are at most its rows. A prefix of m >= 2 rows, in tiles of SHARING_TILE_ROWS = 4 or more, has
    at most m / 2 tiles, and a row is in at most SHARING_LEVELS = 2 prefixes: that makes rows + rows units. With s the
    split length, a unit of L keys gives ceil(L / s) items, one and fewer than L / s more; the sum of L / s is at most
    ``programs_per_head``, as that is how s is chosen.

    Args:
        rows: Rows of the batch.
        num_sms: What the planner was given.
        num_kv_heads: KV heads of the model.
        units: A number of units known to be smaller: ``rows`` where tiles are "decode", one for a single check of up
            to a tile's rows.
    """
    return (2 * rows if units is None else units) + programs_per_head(num_sms, num_kv_heads)


def max_parts(rows: int, num_sms: int, num_kv_heads: int) -> int:
    """Partials that no plan of so many rows exceeds.

    By the same count: each row is in at most 1 + SHARING_LEVELS = 3 units, and every item beyond a unit's first has
    partials for no more rows than a tile holds.
    """
    return 3 * rows + min(rows, MAX_TILE_ROWS) * programs_per_head(num_sms, num_kv_heads)


@dataclass(frozen=True)
class TilePlanner:
    """Plans attention for one sliding window (None: full attention).

    Attributes:
        window: A row sees positions above its own minus this.
        block_size: Slots in a block of the KV cache.
        num_heads: Query heads.
        num_kv_heads: KV heads.
        head_dim: Of a head.
        element_size: Bytes of the compute dtype.
        num_sms: Multiprocessors of the device.
    """

    window: int | None
    block_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    element_size: int
    num_sms: int

    def tile(self, tile_class: TileClass) -> Tile:
        """Launch settings that a plan of this class is made for."""
        return Tile.of(tile_class, self.head_dim, self.num_heads // self.num_kv_heads, self.element_size)

    def plan(self, placed: list[PlacedEntry], tile_class: TileClass | None = None) -> TilePlan:
        """The plan of a whole batch.

        Args:
            placed: Its entries in row order, at least one, each with rows, row 0 the first one's.
            tile_class: Which tile to cut for; None: the smallest that holds any entry's rows, or a larger one where a
                shared prefix makes it worth while. "decode" shares nothing.
        """
        counts = np.array([p.entry.num_rows for p in placed], np.int32)
        kv = np.array([p.entry.start for p in placed], np.int32)
        prefixes, own = self._prefixes(placed, tile_class)
        if tile_class is None:
            tile_class = self._class(int(counts.max()), bool(prefixes))
        tile, tile_rows = self.tile(tile_class), self._tile_rows(tile_class)
        blocks, table_starts = self._tables(placed, own)
        begin = table_starts * 0 if own is None else np.array(own, np.int32) * self.block_size
        num_rows = int(counts.sum())
        first, count = np.arange(num_rows, dtype=np.int32), np.ones(num_rows, np.int32)  # of each tile
        if num_rows > len(placed):
            kv = first + np.repeat(kv - np.cumsum(counts) + counts, counts)
            first, count, entry = _tiles(counts, tile_rows)
            begin, table_starts = begin[entry], table_starts[entry]
        visible = self._visible(placed, kv)
        units = self._own_units(kv, visible, first, count, begin, table_starts)
        if prefixes:
            units = self._with_prefixes(units, prefixes, placed, blocks, tile_rows)
        programs = programs_per_head(self.num_sms, self.num_kv_heads)
        if tile_class == TILE_CLASSES[-1]:
            programs = max(1, programs // PROGRAMS_PER_SM)
        items, q_rows = work_list(units, tile.block_n, programs)
        q_parts, row_parts, num_parts = number_partials(q_rows, num_rows)
        tables = np.frombuffer(blocks, np.int32)
        return TilePlan(tile_class, items, q_rows, q_parts, tables, visible, row_parts, num_parts)

    def _tile_rows(self, tile_class: TileClass) -> int:
        return self.tile(tile_class).rows(self.num_heads // self.num_kv_heads)

    def _class(self, most_rows: int, shared: bool) -> TileClass:
        """The smallest tile that holds an entry's rows; the largest if none does."""
        for tile_class in TILE_CLASSES[1 if shared else 0 :]:
            if self._tile_rows(tile_class) >= most_rows:
                return tile_class
        return TILE_CLASSES[-1]

    def _visible(self, placed: list[PlacedEntry], kv: Array) -> Array:
        """``TilePlan.visible``, from each row's KV index; see ``engine.branches`` for who sees what."""
        visible = np.zeros((len(kv), 4), np.int32)
        visible[:, 1] = kv + 1
        if self.window is not None:
            np.maximum(kv - (self.window - 1), 0, out=visible[:, 0])
        for p in placed:
            branches = p.entry.sequence.branches
            if not p.entry.branches or branches is None:
                continue
            trunk, first = p.entry.start + p.entry.num_tokens, p.row + p.entry.num_tokens
            rows = slice(first, first + branches.num_rows)
            start, row = trunk + np.array(branches.starts, np.int32), kv[rows]
            visible[rows, 1], visible[rows, 2], visible[rows, 3] = trunk, start, row + 1
            if self.window is not None:  # to a trunk key it is as far as the row's position says: trunk + row - start
                np.maximum(trunk + row - start - (self.window - 1), 0, out=visible[rows, 0])
                np.maximum(start, row - (self.window - 1), out=visible[rows, 2])
        return visible

    def _tables(self, placed: list[PlacedEntry], own: list[int] | None) -> tuple["array[int]", Array]:
        """Block ids of all entries; and for each, where key 0's would be if it were there.

        Blocks of a shared prefix and those before a window are left out. Behind each entry's is a place for one more,
        which a decode step that follows may fill.
        """
        size, blocks, starts = self.block_size, array("i"), []
        for index, p in enumerate(placed):
            first = 0 if own is None else own[index]
            if self.window is not None:
                first = max(0, p.entry.start - self.window + 1) // size
            starts.append(len(blocks) - first)
            blocks.extend(p.entry.sequence.blocks[first : -(-(p.entry.start + p.entry.num_rows) // size)])
            blocks.append(0)  # a place for the next
        return blocks, np.array(starts, np.int32)

    def _own_units(self, kv: Array, visible: Array, first: Array, count: Array, begin: Array, tables: Array) -> Units:
        """A unit for each tile of neighbouring rows, over the keys from ``begin`` on that one of them sees."""
        refs = np.arange(len(kv), dtype=np.int32)
        end = kv[first + count - 1] + 1
        full = np.minimum.reduceat(visible[:, 1], first)
        if self.window is not None:
            begins = np.where(visible[:, 0] < visible[:, 1], visible[:, 0], visible[:, 2])
            begin = np.minimum.reduceat(begins, first)
            alike = np.maximum.reduceat(visible[:, 0], first) == begin  # the window begins with the same key for all
            full = np.where(alike, np.maximum(full, begin), begin)
        return Units(refs, first, count, tables, begin, end, full)

    def _prefixes(
        self, placed: list[PlacedEntry], tile_class: TileClass | None
    ) -> tuple[list[SharedPrefix], list[int] | None]:
        """Prefixes worth reading once, their members indices in ``placed``; and each entry's first block in none."""
        shares = tile_class != "decode" and self._tile_rows(tile_class or "suffix") >= SHARING_TILE_ROWS
        if len(placed) < 2 or self.window is not None or not shares:
            return [], None
        size, tables, firsts = self.block_size, [], set()
        for index, p in enumerate(placed):
            few = p.entry.num_rows <= SHARING_ROWS
            full = min(len(p.entry.sequence.nodes), p.entry.start // size) if few else 0
            tables.append(p.entry.sequence.blocks[:full])
            firsts.add(tables[-1][0] if full else -1 - index)
        if len(firsts) == len(placed):  # no two begin alike: what is usual costs little
            return [], None
        found, own = shared_prefixes(tables, size)
        levels, kept, saved = [0] * len(placed), [], 0
        for prefix in found:  # those above come before those below
            if levels[prefix.members[0]] == SHARING_LEVELS:
                for m in prefix.members:
                    own[m] = min(own[m], prefix.first)
                continue
            kept.append(prefix)
            saved += (len(prefix.members) - 1) * (prefix.end - prefix.first) * size
            for m in prefix.members:
                levels[m] += 1
        pays = saved * SHARING_PAYS >= sum(p.entry.start for p in placed)
        return (kept, own) if pays else ([], None)

    def _with_prefixes(
        self,
        units: Units,
        prefixes: list[SharedPrefix],
        placed: list[PlacedEntry],
        blocks: "array[int]",
        tile_rows: int,
    ) -> Units:
        """The units and those of the prefixes, whose blocks are added to ``blocks``."""
        rows: list[int] = []
        more: list[tuple[int, int, int, int, int]] = []
        for prefix in prefixes:
            members = [placed[m] for m in prefix.members]
            where, table = len(units.refs) + len(rows), len(blocks) - prefix.first
            blocks.extend(members[0].entry.sequence.blocks[prefix.first : prefix.end])
            rows += [row for p in members for row in range(p.row, p.row + p.entry.num_rows)]
            num_rows = len(units.refs) + len(rows) - where
            first, count, _ = _tiles(np.array([num_rows], np.int32), tile_rows)
            begin, end = prefix.first * self.block_size, prefix.end * self.block_size
            more += [(where + f, c, table, begin, end) for f, c in zip(first.tolist(), count.tolist(), strict=True)]
        extra = np.array(more, np.int32).T
        refs = np.concatenate([units.refs, np.array(rows, np.int32)])
        old = (units.start, units.count, units.table, units.begin, units.end, units.full)
        return Units(refs, *(np.concatenate(pair) for pair in zip(old, (*extra, extra[4]), strict=True)))


def _tiles(counts: Array, tile_rows: int) -> tuple[Array, Array, Array]:
    """First row, rows and entry of each tile, where entries of so many rows are cut into tiles of ``tile_rows``.

    Tiles of an entry are as equal as can be. None is empty: tiles of h = ceil(c / t) rows, t = ceil(c / tile_rows),
    take up c rows in ceil(c / h) tiles, which is at least t as h is at most ``tile_rows``.
    """
    num_tiles = -(-counts // tile_rows)
    height = -(-counts // num_tiles)
    entry = np.repeat(np.arange(len(counts), dtype=np.int32), num_tiles)
    ends = np.cumsum(num_tiles, dtype=np.int32)
    offset = (np.arange(len(entry), dtype=np.int32) - (ends - num_tiles)[entry]) * height[entry]
    first = (np.cumsum(counts, dtype=np.int32) - counts)[entry] + offset
    return first, np.minimum(height[entry], counts[entry] - offset), entry
