"""Triton's paged attention against the reference: in the interpreter without a GPU, compiled with one.

What no row may read is NaN in the cache; outputs and partials are NaN before the run; and work lists have idle items
and rows to spare, as a captured graph's have.
"""

from dataclasses import replace

import pytest
import torch

from alorakit.engine.tile_plan import TilePlanner, max_items, max_parts
from alorakit.kernels import reference
from alorakit.kernels.ops import TILE_CLASSES, Tile, TilePlan, TileTensors
from alorakit.kernels.triton_attention import Partials, paged_attention

from ..attention_batches import Rows, place, slots, visible

NAN = float("nan")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# Of each row, relative to its norm.
TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-3, torch.bfloat16: 2e-2}
# Triton's interpreter multiplies in bfloat16 and float16 otherwise than a GPU does.
DTYPES = [torch.float32] if DEVICE.type == "cpu" else list(TOLERANCE)
IDLE_ROWS = 2


@pytest.fixture(params=DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
def dtype(request) -> torch.dtype:
    return request.param


def attend(
    plan: TilePlan, q: torch.Tensor, cache: torch.Tensor, planner: TilePlanner, tile: Tile | None = None
) -> torch.Tensor:
    """One launch as a graph makes it, with all the room that its number of rows may need."""
    rows, heads, dim = q.shape
    items = max_items(rows, planner.num_sms, planner.num_kv_heads)
    parts = max_parts(rows, planner.num_sms, planner.num_kv_heads)
    assert len(plan.items) <= items and plan.num_parts <= parts
    work = TileTensors.of(plan, DEVICE)
    idle = torch.zeros(items - len(plan.items), 6, dtype=torch.int32, device=DEVICE)
    more = torch.zeros(IDLE_ROWS, 2, dtype=torch.int32, device=DEVICE)
    work = replace(work, items=torch.cat([work.items, idle]), row_parts=torch.cat([work.row_parts, more]))
    partials = Partials.empty(parts, heads, dim, DEVICE)
    partials.out.fill_(NAN)
    partials.lse.fill_(NAN)
    out = torch.full((rows + IDLE_ROWS, heads * dim), NAN, dtype=q.dtype, device=DEVICE)
    padded = torch.full((rows + IDLE_ROWS, heads + 1, dim), NAN, dtype=q.dtype, device=DEVICE)  # part of a fused tensor
    padded[:rows, :heads] = q
    tile = tile or planner.tile(plan.tile_class)
    paged_attention(out, padded[:, :heads], cache, work, partials, tile, planner.block_size, dim**-0.5)
    assert out[rows:].isnan().all(), "rows beyond the batch are not written"
    return out[:rows]


def assert_equals_reference(
    batch: list[Rows],
    dtype: torch.dtype,
    heads: tuple[int, int] = (4, 2),
    dim: int = 64,
    block_size: int = 64,
    window: int | None = None,
    num_sms: int = 4,
    tile_class: str | None = None,
    tile: Tile | None = None,
) -> TilePlan:
    torch.manual_seed(0)
    placed, num_blocks = place(batch, block_size)
    planner = TilePlanner(window, block_size, *heads, dim, dtype.itemsize, num_sms)
    plan = planner.plan(placed, tile_class)
    cache = torch.randn(2, heads[1], num_blocks * block_size, dim, device=DEVICE).to(dtype)
    q = torch.randn(len(plan.visible), heads[0], dim, device=DEVICE).to(dtype)
    poisoned = torch.full_like(cache, NAN)
    for p in placed:
        seen = slots(p, block_size)[visible(p, window).any(0)].to(DEVICE)
        poisoned[:, :, seen] = cache[:, :, seen]
    got = attend(plan, q, poisoned, planner, tile)
    for p in placed:
        rows = slice(p.row, p.row + p.entry.num_rows)
        where, mask = slots(p, block_size).to(DEVICE), visible(p, window).to(DEVICE)
        want = reference.paged_attention(q[rows].float(), *cache.float(), where, mask, dim**-0.5)
        error = (got[rows].float() - want).norm(dim=1) / want.norm(dim=1)
        assert error.max() <= TOLERANCE[dtype]  # NaN is not
    return plan


@pytest.mark.parametrize("heads", [(2, 2), (6, 2), (4, 1), (14, 2)], ids=lambda heads: f"group{heads[0] // heads[1]}")
@pytest.mark.parametrize("rows", [1, 3, 7, 133])
def test_rows_and_groups(rows, heads, dtype):
    assert_equals_reference([Rows(150, rows)], dtype, heads)


@pytest.mark.parametrize("dim", [16, 40, 64, 80, 96, 128, 256])
@pytest.mark.parametrize("rows", [1, 20])
def test_head_dims(rows, dim, dtype):
    assert_equals_reference([Rows(200, rows)], dtype, dim=dim)


@pytest.mark.parametrize("window", [None, 1, 37, 64])
@pytest.mark.parametrize("block_size", [1, 16, 48, 64])
def test_block_sizes_and_windows(block_size, window, dtype):
    assert_equals_reference(
        [Rows(149, 3), Rows(0, 1), Rows(63, 1), Rows(300, 1)], dtype, (3, 1), 32, block_size, window
    )


@pytest.mark.parametrize("start", [0, 1, 62, 63, 64, 127, 128])
def test_a_single_row(start, dtype):
    assert_equals_reference([Rows(start)], dtype)


def test_5000_keys(dtype):
    plan = assert_equals_reference([Rows(4999)], dtype, (4, 1), num_sms=20)
    assert plan.row_parts[0, 1] > 32  # more partials than are merged at once


@pytest.mark.parametrize("window", [None, 5, 90])
def test_drafts_and_branches(window, dtype):
    batch = [Rows(70, 1, draft=4), Rows(130, 2, candidates=(4, 1, 9)), Rows(0, 3, candidates=(70, 2, 5)), Rows(9)]
    assert_equals_reference(batch, dtype, window=window)


@pytest.mark.parametrize("tile_class", [None, *TILE_CLASSES])
def test_mixed_batch_with_shared_prefixes(tile_class, dtype):
    above, below = (("a", 16),), (("a", 16), ("b", 20))
    batch = [Rows(700, 5, prefix=below), Rows(300, prefix=above), Rows(900, prefix=below), Rows(256, 40, prefix=above)]
    batch += [Rows(580, 2, candidates=(3, 2), prefix=below), Rows(77), Rows(256, prefix=above)]
    plan = assert_equals_reference(batch, dtype, block_size=16, tile_class=tile_class)
    assert (plan.row_parts[0, 1] > 2) == (tile_class != "decode")


@pytest.mark.parametrize("num_sms", [1, 16, 132])
def test_splits(num_sms, dtype):
    plan = assert_equals_reference([Rows(700, 18), Rows(130, 1), Rows(400, 1)], dtype, num_sms=num_sms)
    assert (plan.num_parts > 0) == (num_sms > 1)


@pytest.mark.parametrize("dim", [64, 128, 256])
@pytest.mark.parametrize("tile_class", TILE_CLASSES)
def test_tile_classes(tile_class, dim, dtype):
    # A GPU's shared memory holds a dtype's own tiles; the interpreter tries all of them in float32.
    for size in (2, 4) if DEVICE.type == "cpu" else (dtype.itemsize,):
        tile = Tile.of(tile_class, dim, 2, size)
        assert_equals_reference([Rows(200, 3)], dtype, dim=dim, tile_class=tile_class, tile=tile)


def test_a_group_larger_than_the_smallest_tile(dtype):
    assert_equals_reference([Rows(70, 2), Rows(100)], dtype, (40, 2))


@pytest.mark.parametrize("split", [False, True], ids=["whole", "split"])
def test_rows_without_keys_are_zero(split, dtype):
    planner = TilePlanner(None, 16, 4, 2, 64, dtype.itemsize, 16 if split else 1)
    placed, num_blocks = place([Rows(299, 3)], 16)
    plan = planner.plan(placed)
    assert (plan.num_parts > 0) == split
    plan.items[:, 5] = plan.items[:, 3]
    plan.visible[1] = 0
    cache = torch.randn(2, 2, num_blocks * 16, 64, device=DEVICE).to(dtype)
    out = attend(plan, torch.randn(3, 4, 64, device=DEVICE).to(dtype), cache, planner)
    assert (out[1] == 0).all() and (out[[0, 2]] != 0).any(1).all() and out.isfinite().all()


def test_scores_far_apart(dtype):
    """Weights of the smaller ones vanish, and nothing overflows."""
    planner = TilePlanner(None, 64, 2, 1, 64, dtype.itemsize, 1)
    placed, num_blocks = place([Rows(99)], 64)
    cache = torch.zeros(2, 1, num_blocks * 64, 64, device=DEVICE, dtype=dtype)
    where = slots(placed[0], 64).to(DEVICE)
    cache[0, :, where] = -100.0
    cache[0, :, where[50]] = 100.0
    cache[1, :, where] = 3.0
    cache[1, :, where[50]] = 7.0
    out = attend(planner.plan(placed), torch.full((1, 2, 64), 100.0, device=DEVICE, dtype=dtype), cache, planner)
    assert (out == 7).all()


@pytest.mark.slow
@pytest.mark.parametrize("heads", [(1, 1), (6, 2), (8, 2), (7, 1)], ids=lambda heads: f"group{heads[0] // heads[1]}")
@pytest.mark.parametrize("dim", [16, 64, 80, 128, 256])
@pytest.mark.parametrize("block_size", [1, 16, 64])
@pytest.mark.parametrize("window", [None, 37])
def test_sweep(window, block_size, dim, heads, dtype):
    for rows in (1, 3, 7, 133):
        for start in (0, 1, 500, 4867):
            assert_equals_reference([Rows(start, rows), Rows(start // 2)], dtype, heads, dim, block_size, window, 24)
