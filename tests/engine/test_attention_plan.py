"""Attention over shared prefixes, pieces and pairs of rows and blocks equals each sequence's own attention."""

import random
from types import SimpleNamespace

import pytest
import torch

from alorakit import SamplingParams
from alorakit.engine.attention_plan import FEW_ROWS, MIN_BLOCK_ROWS, Planner
from alorakit.engine.rows import PlacedEntry
from alorakit.engine.schedule import Entry
from alorakit.engine.shared_prefixes import MIN_TOKENS_SAVED, SharedPrefix, shared_prefixes
from alorakit.kernels import ops, reference

SIZE, HEADS, KV_HEADS, DIM = 16, 6, 2, 24
CPU = torch.device("cpu")
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


def make_batch(rng: random.Random, rows: list[int], shared: list[list[int]]) -> list[PlacedEntry]:
    """Entries of so many rows each; entry i begins with the blocks of ``shared[i % len(shared)]``."""
    free = [b for b in range(200) if not any(b in prefix for prefix in shared)]
    rng.shuffle(free)
    placed, row = [], 0
    for index, num in enumerate(rows):
        prefix = shared[index % len(shared)]
        start = len(prefix) * SIZE + rng.randrange(0, 50)
        blocks = prefix + [free.pop() for _ in range(-(-(start + num) // SIZE) - len(prefix))]
        sequence = SimpleNamespace(
            nodes=prefix, blocks=blocks, branches=None, num_branch_rows=0, sampling=SamplingParams()
        )
        placed.append(PlacedEntry(Entry(sequence, start, num, completes=True), row))
        row += num
    return placed


def assert_equals_reference(placed: list[PlacedEntry], window: int | None, dtype: torch.dtype) -> ops.AttentionPlan:
    torch.manual_seed(0)
    cache = torch.randn(2, 2, KV_HEADS, 200 * SIZE, DIM).to(dtype)
    plan = Planner(window, SIZE, dtype, CPU).plan(placed)
    q = torch.randn(plan.num_rows, HEADS, DIM).to(dtype)
    attend = ops.paged_attention(cache, plan, 0.3)
    for layer, (keys, values) in enumerate(cache):
        got = attend(layer, q)
        for p in placed:
            end = p.entry.start + p.entry.num_rows
            slots = [p.entry.sequence.blocks[i // SIZE] * SIZE + i % SIZE for i in range(end)]
            distance = torch.arange(p.entry.start, end)[:, None] - torch.arange(end)
            visible = (distance >= 0) & (distance < (window or end))
            rows = slice(p.row, p.row + p.entry.num_rows)
            want = reference.paged_attention(q[rows], keys, values, slots, visible, 0.3)
            torch.testing.assert_close(got[rows], want, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    return plan


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=["fp32", "bf16"])
@pytest.mark.parametrize("window", [None, 21])
@pytest.mark.parametrize(
    "rows",
    [[1], [1] * 3, [1] * 8, [1] * 33, [3, 1, 1], [1, 9, 4, 1], [1] * 9 + [40, 5], [300, 1, 16, 17]],
    ids=lambda rows: f"{len(rows)}x{max(rows)}",
)
@pytest.mark.parametrize("shared", [[[]], [list(range(30, 50))], [[7, 3, 9], [60, 61], []]], ids=["none", "one", "two"])
def test_every_mix_of_rows_and_prefixes(rows, shared, window, dtype):
    assert_equals_reference(make_batch(random.Random(len(rows)), rows, shared), window, dtype)


def test_a_prefix_is_read_once_for_all_its_rows():
    prefix = list(range(40, 60))
    plan = assert_equals_reference(make_batch(random.Random(1), [1] * 8, [prefix]), None, torch.float32)
    [span] = plan.shared
    assert span.rows.tolist() == list(range(8))
    assert span.runs == ((40 * SIZE, 60 * SIZE),)
    assert plan.blocks is not None and not set(plan.blocks.runs) & {(block, block + 1) for block in prefix}


def test_many_rows_read_by_themselves():
    plan = assert_equals_reference(
        make_batch(random.Random(1), [FEW_ROWS + 1] * 4, [list(range(20))]), None, torch.float32
    )
    assert not plan.shared and len(plan.spans) == 4


def test_few_single_rows_have_no_pairs():
    plan = assert_equals_reference(make_batch(random.Random(1), [1] * (MIN_BLOCK_ROWS - 1), [[]]), None, torch.float32)
    assert plan.blocks is None and plan.merged is None


def test_neighbours_and_small_gaps_make_one_run_of_blocks():
    entries = []
    for row, blocks in enumerate(([0, 1, 2], [3, 4, 5], [6, 7], [9], [10, 11], [12, 13, 14], [15], [16, 30])):
        sequence = SimpleNamespace(nodes=[], blocks=blocks, branches=None, num_branch_rows=0, sampling=SamplingParams())
        entries.append(PlacedEntry(Entry(sequence, len(blocks) * SIZE - 3, 1, completes=True), row))
    plan = assert_equals_reference(entries, None, torch.float32)
    assert plan.blocks is not None and plan.blocks.runs == ((0, 17), (30, 31))


def test_shared_prefixes_by_levels():
    system, doc = list(range(16)), list(range(100, 120))
    tables = [system + doc + [1000], system + doc + [1001], [*system, 200], [300]]
    found, own = shared_prefixes(tables, SIZE)
    assert found == [SharedPrefix((0, 1, 2), 0, 16), SharedPrefix((0, 1), 16, 36)]
    assert own == [36, 36, 16, 0]


def test_a_short_common_start_is_read_with_the_longer_one_below_it():
    doc = list(range(100, 100 + MIN_TOKENS_SAVED // SIZE))
    found, own = shared_prefixes([[1, *doc, 7], [1, *doc, 8], [1, 9]], SIZE)
    assert found == [SharedPrefix((0, 1), 0, len(doc) + 1)]
    assert own == [len(doc) + 1, len(doc) + 1, 0]
    assert shared_prefixes([[1, 2], [1, 2]], SIZE) == ([], [0, 0])
