"""Which KV one request can have from another that is still running.

The tree knows whole blocks. A running sequence also holds a block that is not full yet, and it will compute more of
its prompt in the steps to come. A request that arrives meanwhile copies the rows that are there, and waits for those
that are about to come rather than computing them a second time.
"""

from collections.abc import Iterable
from collections.abc import Sequence as Seq
from typing import NamedTuple

from alorakit.engine.block_tree import Match
from alorakit.engine.sequence import Sequence


class Tail(NamedTuple):
    """Rows of a block that a running sequence has not filled yet."""

    owner: Sequence
    block: int
    rows: int


def common_rows(sequence: Sequence, other: Sequence, start: int, end: int) -> int:
    """How many leading tokens of ``sequence`` have the same KV as ``other``'s; its last token never counts.

    Args:
        sequence: Whose tokens they are.
        other: Another sequence.
        start: So many are known to have.
        end: No more than so many matter.
    """
    limit = min(len(sequence.tokens) - 1, len(other.tokens), end)
    if sequence.extra != other.extra:
        limit = min(limit, *(e.activation for e in (sequence.extra, other.extra) if e is not None))
    if limit <= start:
        return limit
    return start + common_prefix(sequence.tokens[start:limit], other.tokens[start:limit], limit - start)


def common_prefix(a: Seq[int], b: Seq[int], limit: int) -> int:
    """Length of the common prefix of two lists, ``limit`` at most (which neither may be shorter than)."""
    if a[:limit] == b[:limit]:
        return limit
    low, high = 0, limit - 1  # a[:low] == b[:low], and the first difference lies at or before high
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def find_tail(sequence: Sequence, match: Match, running: Iterable[Sequence], block_size: int) -> Tail | None:
    """The running sequence whose unfilled block, after the nodes of ``match``, has the most rows for ``sequence``.

    None if ``match`` itself has as many.
    """
    index = len(match.nodes)
    best: Tail | None = None
    rows = match.partial_rows
    for other in running:
        start = index * block_size
        if len(other.nodes) != index or other.num_computed <= start + rows:
            continue
        if index and other.nodes[-1] is not match.nodes[-1]:
            continue
        end = min(start + block_size, other.num_computed)  # what is before is the same node's
        if (usable := common_rows(sequence, other, start, end) - start) > rows:
            best, rows = Tail(other, other.blocks[index], usable), usable
    return best


def find_leader(sequence: Sequence, have: int, running: Iterable[Sequence], least: int) -> tuple[Sequence, int] | None:
    """A running sequence that is about to compute more than ``least`` rows for ``sequence`` beyond the ``have`` known.

    Returns:
        That sequence and the number of its rows to wait for, or None.
    """
    best: tuple[Sequence, int] | None = None
    most = have + least
    for other in running:
        if other.num_computed >= other.num_prompt or other.num_prompt <= most:
            continue
        rows = common_rows(sequence, other, 0, len(other.tokens))
        if rows > most and rows > other.num_computed:
            best, most = (other, rows), rows
    return best
