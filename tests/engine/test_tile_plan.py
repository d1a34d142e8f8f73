"""The work list: every row meets exactly the keys it must see, each once, within the room that graphs reserve."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alorakit.engine.rows import PlacedEntry
from alorakit.engine.tile_plan import SHARING_LEVELS, TilePlanner, max_items, max_parts
from alorakit.kernels.ops import TILE_CLASSES, TilePlan

from ..attention_batches import Rows, place, visible


def check(batch: list[Rows], planner: TilePlanner, tile_class: str | None = None) -> TilePlan:
    """Plan a batch, and see that the plan is right and its items in order."""
    placed, _ = place(batch, planner.block_size)
    plan = planner.plan(placed, tile_class)
    assert_covers(plan, placed, planner)
    lengths = (plan.items[:, 4] - plan.items[:, 3]).tolist()
    assert all(first >= second for first, second in pairwise(lengths))
    return plan


def assert_covers(plan: TilePlan, placed: list[PlacedEntry], planner: TilePlanner) -> None:
    """Hold a plan against brute force."""
    num_rows = sum(p.entry.num_rows for p in placed)
    tile = planner.tile(plan.tile_class)
    assert all(array.dtype == np.int32 and array.flags.c_contiguous for array in plan.arrays)
    met = [np.zeros(p.entry.start + p.entry.num_rows, int) for p in placed for _ in range(p.entry.num_rows)]
    owner = [p for p in placed for _ in range(p.entry.num_rows)]
    next_start = 0
    for q_start, q_count, table, begin, end, full in plan.items.tolist():
        assert q_start == next_start and 0 < q_count <= tile.rows(planner.num_heads // planner.num_kv_heads)
        assert begin <= full <= end and begin < end
        if planner.window is None and planner.block_size % tile.block_n == 0:
            assert begin % tile.block_n == 0  # else the kernel goes without its fast path
        next_start += q_count
        blocks = range(begin // planner.block_size, -(-end // planner.block_size))
        for row in plan.q_rows[q_start : q_start + q_count].tolist():
            assert [plan.tables[table + b] for b in blocks] == [owner[row].entry.sequence.blocks[b] for b in blocks]
            key, (a0, a1, b0, b1) = np.arange(begin, end), plan.visible[row].tolist()
            seen = ((key >= a0) & (key < a1)) | ((key >= b0) & (key < b1))
            met[row][begin:end] += seen
            assert seen[: full - begin].all()
    assert next_start == len(plan.q_rows) == len(plan.q_parts)
    want = [row for p in placed for row in visible(p, planner.window).numpy().astype(int)]
    assert all((got == expected).all() for got, expected in zip(met, want, strict=True))
    check_partials(plan, num_rows)
    assert len(plan.items) <= max_items(num_rows, planner.num_sms, planner.num_kv_heads)
    if plan.tile_class == "decode":
        assert len(plan.items) <= max_items(num_rows, planner.num_sms, planner.num_kv_heads, units=num_rows)
    assert plan.num_parts <= max_parts(num_rows, planner.num_sms, planner.num_kv_heads)


def check_partials(plan: TilePlan, num_rows: int) -> None:
    used = []
    for row in range(num_rows):
        parts, (first, count) = plan.q_parts[plan.q_rows == row].tolist(), plan.row_parts[row].tolist()
        if len(parts) == 1:
            assert parts == [-1] and (first, count) == (0, 0)
        else:
            assert sorted(parts) == list(range(first, first + count))
            used += parts
    assert sorted(used) == list(range(plan.num_parts))


def planner(window=None, block_size=16, heads=4, kv_heads=2, head_dim=64, element_size=2, num_sms=4) -> TilePlanner:
    return TilePlanner(window, block_size, heads, kv_heads, head_dim, element_size, num_sms)


PREFIXES = st.sampled_from(((), (("a", 20),), (("a", 20), ("b", 16)), (("a", 20), ("b", 16), ("c", 17)), (("d", 33),)))


@st.composite
def batches(draw: st.DrawFn) -> list[Rows]:
    batch = []
    for _ in range(draw(st.integers(1, 12))):
        prefix = draw(PREFIXES)
        start = 16 * sum(blocks for _, blocks in prefix) + draw(st.integers(0, 700))
        num = draw(st.sampled_from((1, 1, 1, 2, 5, 16, 17, 40, 133)))
        kind = draw(st.sampled_from(("plain", "plain", "draft", "branches")))
        draft = draw(st.integers(1, 6)) if kind == "draft" else 0
        candidates = tuple(draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))) if kind == "branches" else ()
        batch.append(Rows(start, num, draft, candidates, prefix))
    return batch


@settings(max_examples=60, deadline=None)
@given(
    batches(),
    st.sampled_from((None, None, 1, 7, 300)),
    st.sampled_from(((4, 4), (4, 2), (14, 2), (3, 1), (32, 1))),
    st.sampled_from((1, 6, 40, 132)),
    st.sampled_from((None, *TILE_CLASSES)),
)
def test_every_row_meets_its_keys_once(batch, window, heads, num_sms, tile_class):
    check(batch, planner(window, heads=heads[0], kv_heads=heads[1], num_sms=num_sms), tile_class)


@pytest.mark.slow
@settings(max_examples=2000, deadline=None)
@given(
    batches(),
    st.one_of(st.none(), st.integers(1, 900)),
    st.integers(1, 17),
    st.integers(1, 5),
    st.integers(1, 200),
    st.sampled_from((None, *TILE_CLASSES)),
    st.sampled_from((64, 128, 256)),
    st.sampled_from((2, 4)),
)
def test_every_row_meets_its_keys_once_sweep(
    batch, window, group, kv_heads, num_sms, tile_class, head_dim, element_size
):
    shape = (group * kv_heads, kv_heads, head_dim, element_size)
    check(batch, planner(window, 16, *shape, num_sms), tile_class)


@settings(max_examples=40, deadline=None)
@given(st.lists(PREFIXES, min_size=1, max_size=64), st.sampled_from((1, 2, 8)), st.integers(1, 160))
def test_room_for_any_decode_batch(prefixes, kv_heads, num_sms):
    batch = [Rows(16 * sum(blocks for _, blocks in prefix) + 5, prefix=prefix) for prefix in prefixes]
    check(batch, planner(heads=4 * kv_heads, kv_heads=kv_heads, num_sms=num_sms))


def test_a_long_decode_fills_the_device():
    plan = check([Rows(32_000)], planner(None, 64, 32, 8, 128, num_sms=132))
    assert plan.tile_class == "decode" and 0.9 * 264 <= len(plan.items) * 8 <= 264
    assert np.ptp(plan.items[:-1, 4] - plan.items[:-1, 3]) == 0


def test_many_decodes_are_not_split():
    plan = check([Rows(2000 + i) for i in range(64)], planner(None, 64, 32, 8, 128, num_sms=132))
    assert len(plan.items) == 64 and plan.num_parts == 0


def test_short_contexts_are_not_split():
    plan = check([Rows(100)], planner(num_sms=132))
    assert len(plan.items) == 1 and plan.num_parts == 0


@pytest.mark.parametrize(("rows", "tile_class"), [(1, "decode"), (4, "decode"), (16, "suffix"), (23, "prefill")])
def test_a_check_reads_its_context_once(rows, tile_class):
    plan = check([Rows(4000, rows)], planner(None, 64, 32, 8, 128, num_sms=132))
    assert plan.tile_class == tile_class
    assert (plan.items[:, 1] == rows).all() and (plan.items[:, 4] - plan.items[:, 3]).sum() == 4000 + rows


def test_a_prefill_chunk_is_cut_into_causal_tiles():
    plan = check([Rows(0, 2048)], planner(None, 64, 32, 8, 128, num_sms=132))
    assert plan.tile_class == "prefill" and len(plan.items) == 64 and plan.num_parts == 0
    assert (plan.items[:, 4] - plan.items[:, 5] == 31).all()  # what needs a mask: a tile's own keys


def test_a_shared_prefix_is_read_once_for_a_tile_of_rows():
    shared = (("doc", 64),)
    plan = check([Rows(1024 + 9 * i, prefix=shared) for i in range(1, 17)], planner(heads=8, num_sms=1))
    prefix = plan.items[plan.items[:, 1] > 1]
    assert plan.tile_class == "suffix" and (prefix[:, 1] == 16).all() and prefix[:, 3].min() == 0
    assert (prefix[:, 4] - prefix[:, 3]).sum() == 1024
    alone = check([Rows(1024 + 9 * i, prefix=shared) for i in range(1, 17)], planner(heads=8, num_sms=1), "decode")
    assert (alone.items[:, 1] == 1).all()


def test_prefixes_below_the_second_level_are_read_apart():
    names = (("a", 16), ("b", 16), ("c", 16))
    deepest = [Rows(800 + i, prefix=names) for i in range(3)]
    plan = check([*deepest, Rows(800, prefix=names[:2]), Rows(800, prefix=names[:1])], planner(num_sms=1))
    assert plan.row_parts[:3, 1].tolist() == [1 + SHARING_LEVELS] * 3


def test_one_short_prefix_does_not_change_everybodys_tile():
    batch = [Rows(4000 + i) for i in range(10)] + [Rows(330, prefix=(("a", 20),)) for _ in range(2)]
    assert check(batch, planner()).tile_class == "decode"


@pytest.mark.parametrize(("head_dim", "heads"), [(257, 4), (0, 4), (64, 129)])
def test_what_no_tile_holds_is_refused(head_dim, heads):
    with pytest.raises(ValueError, match="head_dim up to 256 and 128 heads"):
        planner(heads=heads, kv_heads=1, head_dim=head_dim).plan(place([Rows(3)], 16)[0])
