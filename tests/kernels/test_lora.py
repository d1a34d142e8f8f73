"""Deltas of several adapters in one batch, against the float32 specification and row by row."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alorakit.kernels import lora, ops, reference

from .test_ops import DTYPES, ROWS, close

CPU = torch.device("cpu")
QKV = (96, 32, 32)
NUM_SLOTS = 7


def make_stack(dtype, ranks=(8,) * NUM_SLOTS, widths=QKV, adapted=(0, 1, 2), in_features=64, float32_copy=True):
    """A stack whose slots hold random adapters of the given ranks."""
    dtypes = ops.lora_dtypes(CPU, dtype, in_features if float32_copy else 4096)
    rank = max(ranks)
    stack = ops.LoraStack.zeros(len(ranks), in_features, widths, adapted, rank, dtypes, CPU)
    for slot, own in enumerate(ranks):
        for part, index in enumerate(adapted):
            a = torch.randn(own, in_features) / in_features**0.5
            stack.write(slot, part, a, torch.randn(widths[index], own) / own**0.5)
    return stack


def check(stack, rows, segments, dtype, slot_bytes=1):
    """Compare the op with the reference; rows without a segment must not change at all."""
    x = torch.randn(rows, stack.a.shape[1]).to(dtype)
    out = torch.randn(rows, sum(QKV)).to(dtype)
    before, want = out.clone(), reference.lora_delta(out, x, stack, segments)
    ops.lora_delta(out, x, stack, ops.lora_windows(segments, slot_bytes, CPU))
    close(out, want, dtype)
    plain = [row for row in range(rows) if not any(start <= row < end for start, end, _ in segments)]
    assert torch.equal(out[plain], before[plain])
    if segments:
        assert not torch.equal(out, before)


def segments_of(slots):
    """One segment of one row for each slot that is not None."""
    return [(row, row + 1, slot) for row, slot in enumerate(slots) if slot is not None]


POPULARITY = {
    "same": lambda rows: [3] * rows,
    "distinct": lambda rows: [row % NUM_SLOTS for row in range(rows)],
    "skewed": lambda rows: [min(NUM_SLOTS - 1, (row * 7919 % 64 + 1).bit_length() - 1) for row in range(rows)],
    "some": lambda rows: [None if row % 3 == 1 else (5, 1)[row % 2] for row in range(rows)],
    "first": lambda rows: [2] + [None] * (rows - 1),
    "last": lambda rows: [None] * (rows - 1) + [6],
}


@DTYPES
@ROWS
@pytest.mark.parametrize("popularity", POPULARITY)
@pytest.mark.parametrize("float32_copy", [True, False])
def test_popularity(rows, popularity, float32_copy, dtype):
    check(make_stack(dtype, float32_copy=float32_copy), rows, segments_of(POPULARITY[popularity](rows)), dtype)


@DTYPES
@ROWS
@pytest.mark.parametrize("adapted", [(0,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)], ids=str)
def test_absent_targets(rows, adapted, dtype):
    check(make_stack(dtype, adapted=adapted), rows, segments_of(POPULARITY["some"](rows)), dtype)


@DTYPES
@pytest.mark.parametrize("rows", [1, 7])
def test_ranks_from_1_to_256(rows, dtype):
    stack = make_stack(dtype, ranks=(1, 256, 6, 32, 33, 8, 2))
    check(stack, rows, segments_of(POPULARITY["distinct"](rows)), dtype)


@DTYPES
@pytest.mark.parametrize(
    "lengths", [(1, 1), (23,) * 7, (1, 100, 3), (200,), (64, 65, 8, 9, 1, 1, 1), (5, 70, 70)], ids=str
)
def test_segments_of_many_rows(lengths, dtype):
    segments, row = [], 2
    for index, length in enumerate(lengths):
        segments.append((row, row + length, index * 3 % NUM_SLOTS))
        row += length + index % 2  # some of them leave a row between them
    check(make_stack(dtype), row + 1, segments, dtype)


@DTYPES
def test_an_adapter_in_separated_segments(dtype):
    check(make_stack(dtype), 20, [(12, 15, 4), (0, 2, 4), (5, 6, 1), (18, 20, 4), (2, 5, 6)], dtype)


@DTYPES
def test_no_segment_changes_nothing(dtype):
    check(make_stack(dtype), 5, [], dtype)


def test_equal_widths_need_no_tiles():
    stack = ops.LoraStack.zeros(1, 8, (24, 24), (0, 1), 4, (torch.float32,), CPU)
    assert stack.tile_parts is None
    assert (stack.runs, stack.b.shape) == (((0, 2, 0),), (1, 2, 4, 24))
    assert ops.LoraStack.zeros(1, 8, QKV, (0, 2), 4, (torch.float32,), CPU).runs == ((0, 3, 0), (3, 4, 128))


@DTYPES
def test_a_slot_forgets_the_higher_rank_it_held(dtype):
    stack = make_stack(dtype, ranks=(8, 8))
    a, b = torch.randn(3, 64), torch.randn(32, 3)
    stack.write(0, 1, a, b)
    fresh = ops.LoraStack.zeros(2, 64, QKV, (0, 1, 2), 8, ops.lora_dtypes(CPU, dtype, 64), CPU)
    fresh.write(0, 1, a, b)
    assert torch.equal(stack.a[0, :, 8:16], fresh.a[0, :, 8:16])
    assert torch.equal(stack.b[0, 3], fresh.b[0, 3])


@DTYPES
def test_slots_keep_their_weights_when_resized_and_moved(dtype):
    stack = make_stack(dtype)
    for changed in (stack.resized(3), stack.resized(12)):
        check(changed, 7, segments_of([0, 1, 2, None, 1, 0, 0]), dtype)
        assert torch.equal(changed.a[2], stack.a[2])
    stack.move(5, 0)
    x = torch.randn(2, 64).to(dtype)
    out = torch.zeros(2, sum(QKV), dtype=dtype)
    ops.lora_delta(out, x[[0, 0]], stack, ops.lora_windows([(0, 1, 0), (1, 2, 5)], 1, CPU))
    assert torch.equal(out[0], out[1])
    assert out.count_nonzero() > 0


def test_small_models_on_a_cpu_keep_float32_too():
    assert ops.lora_dtypes(CPU, torch.bfloat16, 576) == (torch.bfloat16, torch.float32)
    assert ops.lora_dtypes(CPU, torch.bfloat16, 4096) == (torch.bfloat16,)
    assert ops.lora_dtypes(CPU, torch.float32, 576) == (torch.float32,)
    assert ops.lora_dtypes(torch.device("cuda"), torch.bfloat16, 576) == (torch.bfloat16,)


def test_a_gap_is_read_along_only_while_that_is_cheap():
    segments = [(0, 1, 0), (1, 2, 4)]
    assert [w.slots for w in ops.lora_windows(segments, lora.GAP_BYTES // 3, CPU)] == [(0, 5)]
    assert [w.slots for w in ops.lora_windows(segments, lora.GAP_BYTES // 2, CPU)] == [(0, 1), (4, 1)]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([1, 1, 2, 5, 9, 30, 70]), st.integers(0, 15), st.booleans()), max_size=12),
    st.sampled_from([1, 400_000, 10**9]),
)
def test_windows_cover_every_adapted_row_once_and_pad_little(parts, slot_bytes):
    segments, row, owner = [], 0, {}
    for length, slot, gap in parts:
        row += gap
        segments.append((row, row + length, slot))
        owner |= dict.fromkeys(range(row, row + length), slot)
        row += length
    seen: dict[int, int] = {}
    for window in ops.lora_windows(segments, slot_bytes, CPU):
        first, num = window.slots
        every = torch.arange(row)
        rows, gather = every[window.rows].tolist(), every[window.gather].tolist()
        places = list(range(num * window.width)) if window.places is None else window.places.tolist()
        assert len(gather) == num * window.width
        assert len(places) == len(set(places)) == len(rows)
        assert [gather[place] for place in places] == rows
        assert not seen.keys() & set(rows)
        seen |= {row: first + place // window.width for row, place in zip(rows, places, strict=True)}
        if window.width > lora.FEW_ROWS:  # never more than twice the rows of a slot, and no slot without rows
            counts = [list(owner.values()).count(slot) for slot in range(first, first + num)]
            assert 2 * min(counts) >= window.width
    assert seen == owner
