"""Products of few rows and the adapters' shrink in the same launch, against the float32 specification."""

import pytest
import torch

from alorakit.kernels import reference
from alorakit.kernels.triton_linear import LinearTile, linear, linear_tile

from .adapters import BATCHES, NUM_SLOTS, POPULARITY, RANKS, RANKS_AND_SPLITS, Adapters, place
from .devices import DTYPES, FEW_ROWS, close, poisoned, randn

pytestmark = pytest.mark.usefixtures("guarded")

EPS = 0.1
TILE = LinearTile(block_n=32, block_k=32, splits=1, stages=3)


def split(splits):
    return LinearTile(block_n=32, block_k=32, splits=splits, stages=3)


def check_low(low, x, adapters, slots, sums=None, skip=()):
    """``A x`` of every row's adapter but the slots in ``skip``; nothing else may have been written."""
    assert torch.equal(~low.isnan().all(0), adapters.written(slots, low.shape[3])) or skip
    assert torch.equal(low.isnan().any(0), low.isnan().all(0)) or skip
    for row, slot in enumerate(slots):
        if slot is None or slot in skip:
            continue
        for part, pair in enumerate(adapters.pairs[slot]):
            if pair is None:
                continue
            got, rank = low[:, row, part].sum(0), len(pair[0])
            squares = None if sums is None else sums[row : row + 1]
            close(got[:rank], reference.linear(x[row : row + 1], pair[0], None, squares, EPS)[0], x.dtype)
            assert (got[rank : int(adapters.ranks[slot, part])] == 0).all()


def check(dtype, rows, n, k, tile=TILE, bias=False, normed=True, adapters=None, slots=None, max_rank=None, out=None):
    """One launch; returns x and the result. Rows that are not ``normed`` come with their squares' sums in 4 parts."""
    x = place(randn(rows, k, dtype=dtype, scale=1.0 if normed else 3.0))
    weight = place(randn(n, k, dtype=dtype, scale=k**-0.5))
    biases = place(randn(n, dtype=dtype)) if bias else None
    sums = None if normed else place((randn(rows, 4).abs() + 2) * 2 * k)
    lora = None if adapters is None else adapters.lora(slots, max_rank)
    got = linear(x, weight, biases, sums, EPS, lora, tile, out)
    tile = tile or linear_tile(rows, n, k, x.element_size())
    assert got.sums.shape == (tile.splits, rows, n) and got.lora is lora
    close(reference.projected(got.sums), reference.linear(x, weight, biases, sums, EPS), dtype)
    if adapters is None:
        assert got.low is None
    else:
        check_low(got.low, x, adapters, slots, sums)
    return x, weight, got


@DTYPES
@FEW_ROWS
@pytest.mark.parametrize("splits", [1, 2, 4])
def test_rows_and_splits(rows, splits, dtype):
    check(dtype, rows, 80, 256, split(splits))  # the last tile is half full
    check(dtype, rows, 80, 200, split(splits), bias=True, normed=False)  # so is the last split


@DTYPES
@pytest.mark.parametrize("k", [1, 31, 33, 96, 100, 160], ids="k{}".format)
@pytest.mark.parametrize("n", [1, 31, 100], ids="n{}".format)
def test_odd_shapes(n, k, dtype):
    for splits in (1, 2, 4):  # some splits have no columns at all
        check(dtype, 5, n, k, split(splits), bias=True)


@DTYPES
@pytest.mark.parametrize("parts", [1, 2, 8, 64])
def test_rows_that_are_not_normalised(parts, dtype):
    x, weight = randn(17, 96, dtype=dtype, scale=5.0), randn(48, 96, dtype=dtype, scale=96**-0.5)
    bias, squares = (
        randn(48, dtype=dtype),
        place(x.float().pow(2).unflatten(1, (-1, 1)).expand(-1, -1, parts).sum(1) / parts),
    )
    got = linear(x, weight, bias, squares, 1e-5, tile=split(2))
    want = reference.linear(reference.rms_norm(x.float(), torch.ones_like(x[0]), 1e-5), weight, bias)
    close(got.sums.sum(0), want, dtype)


@DTYPES
@BATCHES
def test_adapters_of_mixed_ranks(rows, popularity, dtype):
    ranks = [(rank, RANKS[-1 - slot], RANKS[slot - 1]) for slot, rank in enumerate(RANKS)]
    adapters = Adapters(ranks, (40, 20, 20), 96, dtype, rank_step=8)
    check(dtype, rows, 80, 96, split(2), adapters=adapters, slots=POPULARITY[popularity](rows))


@DTYPES
@RANKS_AND_SPLITS
def test_ranks_splits_and_absent_parts(rank, max_rank, splits, dtype):
    ranks = [(rank,) * 3, (rank, 0, 8), (0, rank, 0), (0, 0, 0)]
    adapters = Adapters(ranks, (40, 20, 20), 112, dtype, rank_step=8)
    slots = [None] * 16 + [0, 3, None, 2, 1]
    check(dtype, 21, 80, 112, split(splits), True, False, adapters, slots, max_rank)


@DTYPES
def test_adapters_that_lie_before_and_behind_the_weight(dtype):
    """Their addresses are offsets from the weight's, of either sign."""
    low, high = (Adapters([(8,)], (16,), 64, dtype, rank_step=8) for _ in range(2))
    for adapters in (low, high):
        check(dtype, 3, 16, 64, adapters=adapters, slots=[0, None, 0])


@DTYPES
@pytest.mark.parametrize("slots", [[None] * 19, [None] * 16 + [0, None, None]], ids=["none", "one"])
def test_rows_without_adapters(slots, dtype):
    adapters = Adapters([(8, 8)], (20, 20), 64, dtype, rank_step=8)
    check(dtype, 19, 40, 64, adapters=adapters, slots=slots, max_rank=64)


@pytest.mark.filterwarnings("ignore:(invalid value|overflow) encountered")
@DTYPES
def test_infinities_stay_in_their_rows(dtype):
    adapters = Adapters([(8,), (20,), (8,)], (40,), 64, dtype, rank_step=8)
    adapters.pairs[1][0][0][3, 5] = float("inf")
    slots = [(None, 0, 1, 2)[row % 4] for row in range(19)]
    x, weight = randn(19, 64, dtype=dtype), randn(40, 64, dtype=dtype, scale=0.125)
    x[slots.index(None)] = float("inf")
    got = linear(x, weight, lora=adapters.lora(slots), tile=split(2))
    finite = [row for row in range(19) if row != slots.index(None)]
    close(got.sums.sum(0)[finite], reference.linear(x, weight)[finite], dtype)
    check_low(got.low, x, adapters, slots, skip=(1,))
    low = got.low.sum(0)[[row for row, slot in enumerate(slots) if slot == 1], 0]
    assert not low[:, 3].isfinite().any() and low[:, [0, 1, 2, *range(4, 24)]].isfinite().all()


@DTYPES
def test_out(dtype):
    """Written whole, and nothing beyond; several splits have no use for it."""
    out = poisoned(40, 50, dtype=torch.float32)
    _, _, got = check(dtype, 7, 50, 64, bias=True, out=out[10:17])
    assert got.sums.data_ptr() == out[10].data_ptr()
    assert out[:10].isnan().all() and out[17:].isnan().all()
    _, _, got = check(dtype, 7, 50, 64, split(2), out=out[20:27])
    assert out[20:27].isnan().all()


@DTYPES
@pytest.mark.parametrize("rows", [1, 33, 64])
@pytest.mark.parametrize("shape", [(100, 256), (72, 1040), (130, 520)], ids="{0[0]}x{0[1]}".format)
def test_the_tiles_in_use(shape, rows, dtype):
    adapters = Adapters([(16, 0), (72, 8)], (shape[0] // 2,) * 2, shape[1], dtype, rank_step=8)
    slots = [(0, None, 1)[row % 3] for row in range(rows)]
    check(dtype, rows, *shape, None, True, False, adapters, slots, 128)
    check(dtype, rows, *shape, None)


def test_the_tiles_fill_the_device():
    assert linear_tile(1, 4096, 12800, 2).splits == 2
    assert linear_tile(1, 25600, 4096, 2).splits == 1
    assert linear_tile(1, 256, 1024, 2).splits == 2  # no split is shorter than 512
    # Many programs of many rows share a multiprocessor's memory; one to each has it all.
    assert linear_tile(64, 25600, 4096, 2).stages < linear_tile(1, 25600, 4096, 2).stages
    assert linear_tile(64, 4096, 4096, 2).stages == linear_tile(1, 4096, 4096, 2).stages


@DTYPES
def test_no_rows(dtype):
    weight = randn(40, 64, dtype=dtype)
    assert linear(randn(0, 64, dtype=dtype), weight, tile=TILE).sums.shape == (1, 0, 40)


@pytest.mark.slow
@DTYPES
@FEW_ROWS
@pytest.mark.parametrize("shape", [(1536, 576), (960, 576), (576, 1536), (2560, 2048)], ids="{0[0]}x{0[1]}".format)
def test_model_shapes(shape, rows, dtype):
    adapters = Adapters([(rank, 32) for rank in RANKS], (shape[0] // 2,) * 2, shape[1], dtype, rank_step=8)
    slots = [None if row % 4 == 1 else row % NUM_SLOTS for row in range(rows)]
    check(dtype, rows, *shape, None, False, False, adapters, slots, 64)
