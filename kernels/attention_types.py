"""Which rows of a batch attend to which slots of the paged KV cache."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

Runs = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class AttentionSpan:
    """Consecutive rows of one sequence and keys they attend to.

    Attributes:
        start: First row of the span in the batch.
        end: One past its last row.
        runs: KV slots in position order, as (first, one past last) pairs of consecutive slots.
        mask: Additive [rows, tail] in the compute dtype, for the last ``tail`` keys; every row sees the keys before
            them. None when every row sees every key.
    """

    start: int
    end: int
    runs: Runs
    mask: Tensor | None = None


@dataclass(frozen=True)
class SharedSpan:
    """Rows of several sequences and keys that all of them see: a prefix they have in common.

    Attributes:
        rows: int64 [n], rows of the batch.
        runs: As in :class:`AttentionSpan`.
    """

    rows: Tensor
    runs: Runs


@dataclass(frozen=True)
class BlockSpan:
    """Single rows of many sequences, each against some whole blocks: pairs of a row and a block.

    Attributes:
        rows: int64 [pairs], rows of the batch.
        runs: Block ids as (first, one past last) pairs; pair ``i`` is with the ``i``-th block of all runs.
        mask: Additive [pairs, 1, block_size] in the compute dtype: -inf where a slot holds no key of the row.
        block_size: Slots in a block.
    """

    rows: Tensor
    runs: Runs
    mask: Tensor
    block_size: int


@dataclass(frozen=True)
class AttentionPlan:
    """All of a batch's attention.

    Attributes:
        num_rows: Rows of the batch; each is in one of ``spans``, or in ``merged``.
        spans: Rows whose keys are in one piece.
        merged: int64 [rows], ascending: rows whose keys are in several pieces, in ``shared``, ``pieces`` or ``blocks``.
            The pieces' results are merged by their log-sum-exp.
        shared: Prefixes.
        pieces: The rest of the keys of a few rows of one sequence.
        blocks: The rest of the keys of single rows; None if there are none.
        parts: int64 [len(merged), most pieces of a row]: where a row's results are when those of ``shared``, ``pieces``
            and ``blocks``, row by row, are laid out one after the other; the index past the last one is no result.
    """

    num_rows: int
    spans: Sequence[AttentionSpan]
    merged: Tensor | None = None
    shared: Sequence[SharedSpan] = ()
    pieces: Sequence[AttentionSpan] = ()
    blocks: BlockSpan | None = None
    parts: Tensor | None = None
