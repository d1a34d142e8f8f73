"""Rotary, head norms and the write to the paged cache, against the float32 specification.

The cache is NaN before the run, and still is where nothing was to be written.
"""

import pytest
import torch

from alorakit.kernels import reference
from alorakit.kernels.lora_rows import Projected
from alorakit.kernels.triton_launch import warps_for
from alorakit.kernels.triton_linear import LinearTile, linear
from alorakit.kernels.triton_rope_kv_write import Rotary, rope_kv_write

from .adapters import BATCHES, POPULARITY, RANKS, RANKS_AND_SPLITS, Adapters, place, projection
from .devices import DEVICE, DTYPES, ROWS, close, poisoned, randn

pytestmark = pytest.mark.usefixtures("guarded")

POSITIONS = 50
EPS = 0.1


def rotary(dim, dtype):
    """Angles that no two positions share; the tables lie between NaNs."""
    angle = torch.rand(POSITIONS, dim // 2) * 6
    cos, sin = torch.cat([angle.cos()] * 2, 1), torch.cat([-angle.sin(), angle.sin()], 1)
    return Rotary(place(cos.to(DEVICE, dtype)), place(sin.to(DEVICE, dtype)))


def unwritten(cache):
    """How many NaNs there are in the cache and around it."""
    return cache.new_empty(0).set_(cache.untyped_storage()).isnan().sum()


def check(dtype, projected, qkv, heads, dim, qk_norm=False, slots=None, kind=torch.int32):
    """Against the reference; ``qkv`` is what ``projected`` stands for, every fifth row has no slot by default."""
    num_heads, num_kv_heads = heads
    rows = len(qkv)
    num_slots = 2 * rows + 3
    if slots is None:
        slots = [-1 if row % 5 == 4 else slot for row, slot in enumerate(torch.randperm(num_slots - 1)[:rows].tolist())]
        slots[0] = num_slots - 1
    # Beyond the batch's rows lie those of another batch.
    more = torch.tensor(slots + [0] * 64, device=DEVICE, dtype=kind)
    positions = torch.randint(POSITIONS, (rows + 64,), device=DEVICE, dtype=kind)
    positions[0] = POSITIONS - 1
    tables = rotary(dim, dtype)
    norms = (place(randn(dim, dtype=dtype)), place(randn(dim, dtype=dtype))) if qk_norm else None
    cache = place(poisoned(2, num_kv_heads, num_slots, dim, dtype=dtype))
    want_q, want_cache = reference.rope_kv_write(
        qkv, cache, positions[:rows], slots, tables.cos, tables.sin, num_heads, norms, EPS
    )
    before = unwritten(cache)
    q = rope_kv_write(projected, cache, positions[:rows], more[:rows], tables, num_heads, norms, EPS)
    close(q, want_q, dtype)
    assert q.dtype == dtype
    assert torch.equal(cache.isnan(), want_cache.isnan())
    close(cache.nan_to_num(), want_cache.nan_to_num(), dtype)
    written = 2 * num_kv_heads * dim * sum(slot >= 0 for slot in slots)
    assert before - unwritten(cache) == written, "written out of bounds"


def qkv_widths(heads, dim):
    return heads[0] * dim, heads[1] * dim, heads[1] * dim


@DTYPES
@ROWS
@pytest.mark.parametrize("qk_norm", [False, True], ids=["plain", "norm"])
def test_rows(rows, qk_norm, dtype):
    """Of many rows, the sums are the matrix library's product, in the compute dtype."""
    for kind in (torch.int32, torch.int64):
        check(dtype, *projection(rows, 5 * 16, dtype=dtype), (3, 1), 16, qk_norm, kind=kind)
    slots = [(None, 0, 1)[row % 3] for row in range(rows)]
    adapters = Adapters([(8, 0, 4), (0, 8, 8)], qkv_widths((3, 1), 16), 8, dtype, rank_step=8)
    check(dtype, *projection(rows, 5 * 16, 1, adapters, slots), (3, 1), 16, qk_norm)


@DTYPES
@pytest.mark.parametrize("dim", [16, 24, 64, 80, 128, 256], ids="dim{}".format)
@pytest.mark.parametrize("qk_norm", [False, True], ids=["plain", "norm"])
def test_head_dims(dim, qk_norm, dtype):
    heads = (2, 1)
    check(dtype, *projection(17, 4 * dim, 2), heads, dim, qk_norm)
    adapters = Adapters([(8, 16, 33), (40, 8, 0)], qkv_widths(heads, dim), 8, dtype, rank_step=8)
    slots = [(1, None, 0)[row % 3] for row in range(17)]
    check(dtype, *projection(17, 4 * dim, 2, adapters, slots), heads, dim, qk_norm)


@DTYPES
@pytest.mark.parametrize("heads", [(1, 1), (6, 2), (2, 2), (5, 1)], ids="{0[0]}q{0[1]}kv".format)
def test_heads(heads, dtype):
    width = (heads[0] + 2 * heads[1]) * 24
    adapters = Adapters([(8, 8, 8)], qkv_widths(heads, 24), 8, dtype, rank_step=8)
    check(dtype, *projection(7, width, 1, adapters, [0, None, 0, 0, None, None, 0]), heads, 24, True)
    check(dtype, *projection(7, width), heads, 24)


@DTYPES
@BATCHES
def test_adapters_of_mixed_ranks(rows, popularity, dtype):
    ranks = [(rank, RANKS[-1 - slot], RANKS[slot - 1]) for slot, rank in enumerate(RANKS)]
    adapters = Adapters(ranks, qkv_widths((2, 1), 16), 8, dtype, rank_step=8)
    check(dtype, *projection(rows, 4 * 16, 1, adapters, POPULARITY[popularity](rows)), (2, 1), 16)


@DTYPES
@RANKS_AND_SPLITS
def test_ranks_splits_and_absent_parts(rank, max_rank, splits, dtype):
    ranks = [(rank,) * 3, (rank, 0, rank), (0, rank, 0), (0, 0, 0)]
    adapters = Adapters(ranks, qkv_widths((2, 1), 24), 8, dtype, rank_step=8)
    slots = [None] * 16 + [0, 3, None, 2, 1]
    check(dtype, *projection(21, 4 * 24, splits, adapters, slots, max_rank), (2, 1), 24, splits == 2)


@pytest.mark.filterwarnings("ignore:(invalid value|overflow) encountered")
@DTYPES
@pytest.mark.parametrize("which", ["low", "q", "k", "v"])
def test_infinities_stay_in_their_rows(which, dtype):
    widths = qkv_widths((1, 1), 16)
    adapters = Adapters([(20, 20, 20), (8, 8, 8)], widths, 8, dtype, rank_step=8)
    slots = [(None, 1, 0)[row % 3] for row in range(19)]
    projected, qkv = projection(19, 48, 2, adapters, slots)
    theirs = [row for row, slot in enumerate(slots) if slot == 0]
    others = [row for row, slot in enumerate(slots) if slot != 0]
    if which == "low":
        projected.low[0, theirs, :, 3] = float("inf")
    else:
        adapters.pairs[0][["q", "k", "v"].index(which)][1][:, 3] = float("inf")
    cache, tables = poisoned(2, 1, 19, 16, dtype=dtype), rotary(16, dtype)
    rows = torch.arange(19, device=DEVICE)
    want_q, want = reference.rope_kv_write(qkv, cache, rows, range(19), tables.cos, tables.sin, 1)
    q = rope_kv_write(projected, cache, rows, rows, tables, 1)
    close(q[others], want_q[others], dtype)
    close(cache[:, :, others], want[:, :, others], dtype)
    spoiled = {"low": (q, cache[0, 0], cache[1, 0]), "q": (q,), "k": (cache[0, 0],), "v": (cache[1, 0],)}[which]
    assert not any(part[theirs].isfinite().any() for part in spoiled)


@DTYPES
@pytest.mark.parametrize("splits", [1, 2])
@pytest.mark.parametrize("rows", [3, 40])
def test_a_product_and_its_expand(rows, splits, dtype):
    widths = qkv_widths((2, 1), 24)
    adapters = Adapters([(33, 8, 1), (0, 16, 0), (64, 0, 8)], widths, 96, dtype, rank_step=8)
    slots = [(2, None, 0, 1)[row % 4] for row in range(rows)]
    x, weight = place(randn(rows, 96, dtype=dtype)), place(randn(96, 96, dtype=dtype, scale=96**-0.5))
    projected = linear(x, weight, lora=adapters.lora(slots, 128), tile=LinearTile(32, 32, splits, 3))
    segments = [(row, row + 1, slot) for row, slot in enumerate(slots) if slot is not None]
    qkv = reference.lora_table_delta(x.float() @ weight.float().T, x, adapters.pairs, widths, segments)
    check(dtype, projected, qkv, (2, 1), 24)


@DTYPES
def test_rows_without_slots_write_nothing(dtype):
    check(dtype, *projection(20, 4 * 16), (2, 1), 16, slots=[-1] * 20)
    check(dtype, *projection(20, 4 * 16), (2, 1), 16, slots=[*range(-17, 3)])


@DTYPES
def test_no_rows(dtype):
    cache, none = poisoned(2, 1, 5, 16, dtype=dtype), torch.zeros(0, dtype=torch.int32, device=DEVICE)
    q = rope_kv_write(Projected(randn(2, 0, 64)), cache, none, none, rotary(16, dtype), 2)
    assert q.shape == (0, 2, 16) and cache.isnan().all()


@pytest.mark.parametrize("item", [2, 4])
@pytest.mark.parametrize("dim", range(8, 264, 8))
def test_warps_are_a_power_of_two_as_a_gpu_demands(dim, item):
    for splits in (1, 2, 8):
        warps = warps_for(dim, item, splits)["num_warps"]
        assert 4 <= warps <= 16 and warps.bit_count() == 1
