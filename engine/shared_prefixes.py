"""Which sequences of a step have leading blocks in common, so that each block is read once for all of them."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence as Seq
from dataclasses import dataclass

# Reading a prefix apart and merging its result costs some calls a layer: worth it from so many tokens saved.
MIN_TOKENS_SAVED = 256


@dataclass(frozen=True)
class SharedPrefix:
    """Blocks ``[first, end)`` of the block tables of ``members`` are the same."""

    members: tuple[int, ...]
    first: int
    end: int


def shared_prefixes(tables: Seq[Seq[int]], block_size: int) -> tuple[list[SharedPrefix], list[int]]:
    """Cut block tables into parts that several have in common and the rest.

        tables [7 8 9 1] [7 8 9 2] [7 8 5]      shared: blocks 0-2 by all three, block 2-3 by the first two
        own    from 3    from 3    from 2

    Args:
        tables: Full blocks of each sequence, which others may hold as well.
        block_size: Tokens in a block.

    Returns:
        The parts in common, and for each table the index of its first block that is in none of them.
    """
    found: list[SharedPrefix] = []
    own = [0] * len(tables)
    _split(tables, list(range(len(tables))), 0, 0, block_size, found, own)
    return found, own


def _split(
    tables: Seq[Seq[int]],
    members: list[int],
    first: int,
    at: int,
    block_size: int,
    found: list[SharedPrefix],
    own: list[int],
) -> None:
    """Divide ``members``, equal before block ``at``, by that block; before ``first`` all is covered."""
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for member in members:
        own[member] = first
        if at < len(tables[member]):
            groups[tables[member][at]].append(member)
    for group in groups.values():
        if len(group) < 2:
            continue
        end = _common_end([tables[m] for m in group], at + 1)
        if (len(group) - 1) * (end - first) * block_size >= MIN_TOKENS_SAVED:
            found.append(SharedPrefix(tuple(group), first, end))
            _split(tables, group, end, end, block_size, found, own)
        else:
            _split(tables, group, first, end, block_size, found, own)


def _common_end(tables: list[Seq[int]], start: int) -> int:
    """Up to which block all tables are equal, those before ``start`` being so; slices, as step by step is slow."""
    first, end = tables[0], min(map(len, tables))
    for table in tables[1:]:
        if table[start:end] != first[start:end]:
            end = bisect_left(range(end), True, start, key=lambda i: table[start : i + 1] != first[start : i + 1])
    return end
