"""A decode step that follows another says what it would have said if it had been built on its own."""

from types import SimpleNamespace

import numpy as np
import pytest

from alorakit import SamplingParams
from alorakit.engine.decode_steps import DecodeSteps
from alorakit.engine.rows import PlacedEntry, Rows
from alorakit.engine.schedule import Entry, Schedule
from alorakit.engine.tile_plan import TilePlanner
from alorakit.engine.triton_batch import TritonBatch, build

from .test_tile_plan import assert_covers

SIZE = 64


class Decoding:
    """Sequences that decode, without a model."""

    def __init__(self, starts: list[int], num_shared: int = 0) -> None:
        self.planner = TilePlanner(None, SIZE, 32, 8, 128, 2, 132)
        self.steps = DecodeSteps(SIZE)
        self.num_blocks = num_shared
        self.sequences = []
        for start in starts:
            blocks = [*range(num_shared), *(self.new_block() for _ in range(start // SIZE + 1 - num_shared))]
            self.sequences.append(
                SimpleNamespace(
                    tokens=list(range(start + 1)),
                    blocks=blocks,
                    nodes=blocks[: start // SIZE],
                    branches=None,
                    num_branch_rows=0,
                    sampling=SamplingParams(),
                    active_adapter=None,
                    activation=None,
                )
            )

    def new_block(self) -> int:
        self.num_blocks += 1
        return self.num_blocks - 1

    def entries(self) -> list[Entry]:
        return [Entry(s, len(s.tokens) - 1, 1, completes=True) for s in self.sequences]

    def build(self, entries: list[Entry]) -> TritonBatch:
        rows = Rows.of(Schedule(entries), SIZE)
        return build(rows, [self.planner.plan(rows.placed)], None, few=True)

    def start(self) -> None:
        self.steps.remember(self.build(self.entries()))

    def grow(self) -> None:
        """One more token each; a block that is full by then changes places with another, as a shared one may."""
        for sequence in self.sequences:
            sequence.tokens.append(7 * len(sequence.tokens))
            if len(sequence.tokens) % SIZE == 1:
                sequence.blocks[-1] = self.new_block()
                sequence.blocks.append(self.new_block())

    def follow(self) -> bool:
        """Whether the step follows; if so it is held against one that is built anew."""
        batch, want = self.steps.follow(Schedule(self.entries())), self.build(self.entries())
        if batch is None:
            return False
        for name in ("token_ids", "positions", "slots", "logits_rows", "0.visible"):
            np.testing.assert_array_equal(batch.arrays[name], want.arrays[name])
        (plan,) = batch.plans
        assert all(batch.arrays[f"0.{name}"] is getattr(plan, name) for name in ("items", "visible", "tables"))
        placed = [PlacedEntry(entry, row) for row, entry in enumerate(batch.entries)]
        assert_covers(plan, placed, self.planner)
        assert batch.wanted == batch.entries and [e.sequence for e in batch.entries] == self.sequences
        return True


@pytest.mark.parametrize("starts", [[0], [5], [63], [1000 + 9 * row for row in range(40)]])
def test_every_step_follows_until_a_row_needs_a_second_block(starts):
    decoding = Decoding(starts)
    decoding.start()
    before = [start // SIZE for start in starts]
    for step in range(1, 3 * SIZE):
        decoding.grow()
        fits = all((start + step) // SIZE <= first + 1 for start, first in zip(starts, before, strict=True))
        assert decoding.follow() == fits
        if not fits:
            return
    raise AssertionError("no row has needed a second block")


@pytest.mark.parametrize(("starts", "num_shared"), [([4000], 0), ([1500, 1501, 1567], 20)])
def test_rows_that_are_split_follow_within_a_block(starts, num_shared):
    decoding = Decoding(starts, num_shared)
    decoding.start()
    for step in range(1, 2 * SIZE):
        decoding.grow()
        begins = any((start + step) % SIZE == 0 for start in starts)
        assert decoding.follow() == (not begins)
        if begins:
            decoding.start()


def test_another_batch_does_not_follow():
    def follows(change) -> bool:
        decoding = Decoding([100, 200])
        decoding.start()
        decoding.grow()
        change(decoding)
        return decoding.follow()

    def other_blocks(decoding: Decoding) -> None:
        decoding.sequences[0].blocks = list(decoding.sequences[0].blocks)

    def another_token(decoding: Decoding) -> None:
        decoding.sequences[1].tokens.append(3)

    assert follows(lambda decoding: None)
    assert not follows(other_blocks)
    assert not follows(another_token)
    assert not follows(lambda decoding: decoding.sequences.reverse())
    assert not follows(lambda decoding: decoding.sequences.pop())
    assert not follows(lambda decoding: decoding.steps.forget())


def test_only_decoded_rows_are_remembered():
    decoding = Decoding([100, 200])
    first, second = decoding.entries()
    for other in (Entry(second.sequence, 199, 2, completes=True), Entry(second.sequence, 199, 1, completes=False)):
        decoding.steps.remember(decoding.build([first, other]))
        decoding.grow()
        assert not decoding.follow()
