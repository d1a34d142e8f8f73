"""Several continuations of one sequence in one forward pass: a trunk, and branches that do not see each other.

    kv index    0 … trunk-1 | trunk …          | …
    tokens      trunk       | branch 0         | branch 1 …
    position    0 … trunk-1 | trunk, trunk+1 … | trunk, trunk+1 …

A row sees every trunk row before it and, in its own branch, the rows up to itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Branches:
    """Rows that follow a trunk.

    Attributes:
        token_ids: Tokens of all branches, one after the other; a branch's last token has no row, as nothing
            is predicted from it.
        positions: Position of each row, counted from the end of the trunk.
        starts: Index (among these rows) of the first row of each row's branch.
        targets: For each candidate, the (row, token) pairs whose log-probabilities sum to the candidate's;
            row -1 is the trunk's last row.
    """

    token_ids: tuple[int, ...]
    positions: tuple[int, ...]
    starts: tuple[int, ...]
    targets: tuple[tuple[tuple[int, int], ...], ...]

    @classmethod
    def of(cls, candidates: Sequence[Sequence[int]]) -> "Branches":
        """Lay out candidates (each a non-empty list of token ids) as branches of one trunk."""
        ids: list[int] = []
        positions: list[int] = []
        starts: list[int] = []
        targets = []
        for candidate in candidates:
            first = len(ids)
            rows = [-1, *range(first, first + len(candidate) - 1)]
            targets.append(tuple(zip(rows, candidate, strict=True)))
            ids += candidate[:-1]
            positions += range(len(candidate) - 1)
            starts += [first] * (len(candidate) - 1)
        return cls(tuple(ids), tuple(positions), tuple(starts), tuple(targets))

    @property
    def num_rows(self) -> int:
        """Rows that enter the model beside the trunk's."""
        return len(self.token_ids)


def additive_mask(
    rows: range,
    first_key: int,
    dtype: torch.dtype,
    device: torch.device,
    trunk: int | None = None,
    starts: Sequence[int] = (),
    window: int | None = None,
) -> Tensor | None:
    """The mask of some rows of one sequence, as ``ops.AttentionSpan.mask`` wants it.

    Args:
        rows: KV indices of the rows themselves, consecutive; the last one is the last key.
        first_key: KV index of the first key.
        dtype: Compute dtype.
        device: Where the mask goes.
        trunk: Length of the trunk if the sequence has branches.
        starts: KV index of the first row of the branch, for each branch row (KV index ``trunk`` on).
        window: Sliding window in tokens: a row sees positions above its own minus ``window``.

    Returns:
        [len(rows), rows.stop - first_key] of 0 and -inf, or None if every row sees every key.
    """
    if len(rows) == 1 and trunk is None and (window is None or rows.stop - first_key <= window):
        return None
    row = torch.arange(rows.start, rows.stop)[:, None]
    key = torch.arange(first_key, rows.stop)[None]
    visible = key <= row
    distance = row - key
    if trunk is not None and rows.stop > trunk:
        start = torch.tensor([starts[r - trunk] if r >= trunk else 0 for r in rows])[:, None]
        visible &= (key < trunk) | (key >= start)
        # A branch row's position is trunk + row - start, which is what its distance to a trunk key counts from.
        distance = torch.where((key < trunk) & (row >= trunk), trunk + row - start - key, distance)
    if window is not None:
        visible &= distance < window
    return torch.zeros(visible.shape, dtype=dtype).masked_fill_(~visible, float("-inf")).to(device)
