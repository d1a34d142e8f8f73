"""Residual add and norm, of few rows with their adapters' expand and of any number of rows without."""

import pytest
import torch

from alorakit.kernels import reference
from alorakit.kernels.lora_rows import Projected
from alorakit.kernels.triton_add_norm import add_norm, embed_norm
from alorakit.kernels.triton_add_rms_norm import add_rms_norm
from alorakit.kernels.triton_linear import LinearTile, linear

from .adapters import BATCHES, POPULARITY, RANKS, RANKS_AND_SPLITS, Adapters, place, projection
from .devices import DEVICE, DTYPES, FEW_ROWS, ROWS, close, randn

pytestmark = pytest.mark.usefixtures("guarded")

WIDTH = 150  # two programs, the second one mostly beyond the end


def check(got, want, dtype):
    """Compare (x, h, sums of squares)."""
    for ours, theirs in zip((*got[:2], got[2].sum(1)), want, strict=True):
        close(ours, theirs, dtype)
    parts = got[2].shape[1]
    assert parts & (parts - 1) == 0


def check_add(dtype, projected, delta, scale=1.0):
    """Against the reference; ``delta`` is what ``projected`` stands for."""
    x, weight = place(randn(*delta.shape, dtype=dtype)), place(randn(delta.shape[1], dtype=dtype))
    check(add_norm(x, projected, weight, scale), reference.add_norm(x, delta, weight, scale), dtype)


@DTYPES
@BATCHES
def test_adapters_of_mixed_ranks(rows, popularity, dtype):
    adapters = Adapters([(rank,) for rank in RANKS], (WIDTH,), 8, dtype, rank_step=8)
    check_add(dtype, *projection(rows, WIDTH, 1, adapters, POPULARITY[popularity](rows)))


@DTYPES
@RANKS_AND_SPLITS
def test_ranks_and_splits(rank, max_rank, splits, dtype):
    adapters = Adapters([(0,), (rank,)], (WIDTH,), 8, dtype, rank_step=8)
    # A block of rows without any adapter, and an adapter without this projection.
    slots = [None] * 16 + [1, None, 0]
    check_add(dtype, *projection(19, WIDTH, splits, adapters, slots, max_rank), scale=0.22)


@DTYPES
@pytest.mark.parametrize("width", [1, 16, 127, 128, 129, 400], ids="width{}".format)
@pytest.mark.parametrize("rows", [1, 17])
def test_widths(rows, width, dtype):
    adapters = Adapters([(5,)], (width,), 8, dtype, rank_step=8)
    check_add(dtype, *projection(rows, width, 2, adapters, [None] * (rows - 1) + [0]))
    check_add(dtype, *projection(rows, width, 2))


@pytest.mark.filterwarnings("ignore:(invalid value|overflow) encountered")
@DTYPES
@pytest.mark.parametrize("which", ["low", "b"])
def test_infinities_stay_in_their_rows(which, dtype):
    adapters = Adapters([(8,), (20,), (8,)], (WIDTH,), 8, dtype, rank_step=8)
    slots = [(None, 0, 1, 2)[row % 4] for row in range(19)]
    projected, delta = projection(19, WIDTH, 2, adapters, slots)
    theirs = [row for row, slot in enumerate(slots) if slot == 1]
    others = [row for row, slot in enumerate(slots) if slot != 1]
    if which == "low":
        projected.low[0, theirs, 0, 3] = float("inf")
    else:
        adapters.pairs[1][0][1][:, 3] = float("inf")
    x, weight = randn(19, WIDTH, dtype=dtype), randn(WIDTH, dtype=dtype)
    got, want = add_norm(x, projected, weight), reference.add_norm(x, delta, weight)
    check([part[others] for part in got], [part[others] for part in want], dtype)
    assert not got[0][theirs].isfinite().any() and not got[2][theirs].sum(1).isfinite().any()


@DTYPES
@pytest.mark.parametrize("splits", [1, 2])
@pytest.mark.parametrize("rows", [3, 40])
def test_a_product_and_its_expand(rows, splits, dtype):
    adapters = Adapters([(8,), (0,), (33,), (64,)], (WIDTH,), 96, dtype, rank_step=8)
    slots = [(2, None, 3, 1)[row % 4] for row in range(rows)]
    x, weight = place(randn(rows, 96, dtype=dtype)), place(randn(WIDTH, 96, dtype=dtype, scale=96**-0.5))
    projected = linear(x, weight, lora=adapters.lora(slots, 128), tile=LinearTile(32, 32, splits, 3))
    segments = [(row, row + 1, slot) for row, slot in enumerate(slots) if slot is not None]
    base = x.float() @ weight.float().T
    delta = reference.lora_table_delta(base, x, adapters.pairs, [WIDTH], segments)
    check_add(dtype, projected, delta)


@DTYPES
@FEW_ROWS
@pytest.mark.parametrize("width", [48, 300], ids="width{}".format)
def test_embeddings(rows, width, dtype):
    embedding, weight = place(randn(50, width, dtype=dtype)), place(randn(width, dtype=dtype))
    ids = torch.randint(50, (rows,), device=DEVICE)
    ids[-1] = 49
    kinds = (torch.int32, torch.int64)
    want = reference.add_norm(torch.zeros_like(embedding[ids]), embedding[ids], weight, 12.0)
    for kind in kinds:
        check(embed_norm(ids.to(kind), embedding, weight, 12.0), want, dtype)


@DTYPES
@ROWS
@pytest.mark.parametrize("width", [1, 48, 300, 1024], ids="width{}".format)
def test_whole_rows(rows, width, dtype):
    x, delta = place(randn(rows, width, dtype=dtype)), place(randn(rows, width, dtype=dtype))
    weight, before = place(randn(width, dtype=dtype)), x.clone()
    for got, want in zip(
        add_rms_norm(x, delta, weight, 1e-2, 0.22), reference.add_rms_norm(x, delta, weight, 1e-2, 0.22), strict=True
    ):
        close(got, want, dtype)
    same, normed = add_rms_norm(x, None, weight, 1e-2)
    close(normed, reference.rms_norm(x, weight, 1e-2), dtype)
    assert same is x and torch.equal(x, before)


@DTYPES
def test_no_rows(dtype):
    weight, none = randn(48, dtype=dtype), randn(0, 48, dtype=dtype)
    assert [tuple(part.shape) for part in add_norm(none, Projected(randn(2, 0, 48)), weight)[:2]] == [(0, 48)] * 2
    assert [tuple(part.shape) for part in add_rms_norm(none, none, weight, 1e-5)] == [(0, 48)] * 2
