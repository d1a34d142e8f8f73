"""Gate and up with their adapters' expand, against the float32 specification."""

import pytest
import torch

from alorakit.kernels import reference
from alorakit.kernels.lora_rows import Projected
from alorakit.kernels.triton_linear import LinearTile, linear
from alorakit.kernels.triton_silu_mul import silu_mul

from .adapters import BATCHES, POPULARITY, RANKS, RANKS_AND_SPLITS, Adapters, place, projection
from .devices import DEVICE, DTYPES, ROWS, close, randn

pytestmark = pytest.mark.usefixtures("guarded")

INTER = 75  # of two programs in float32, of one in half formats


def check(dtype, projected, gate_up):
    """Against the reference; ``gate_up`` is what ``projected`` stands for."""
    got = silu_mul(projected, dtype)
    assert got.dtype == dtype
    close(got, reference.silu_mul(gate_up), dtype)


def widened(rank, inter, dtype):
    """Adapters of gate and up, of gate, of up, of neither."""
    return Adapters([(rank, rank), (rank, 0), (0, rank), (0, 0)], (inter, inter), 8, dtype, rank_step=8)


@DTYPES
@BATCHES
def test_adapters_of_mixed_ranks(rows, popularity, dtype):
    ranks = [(rank, RANKS[-1 - slot]) for slot, rank in enumerate(RANKS)]
    adapters = Adapters(ranks, (INTER, INTER), 8, dtype, rank_step=8)
    check(dtype, *projection(rows, 2 * INTER, 1, adapters, POPULARITY[popularity](rows)))


@DTYPES
@RANKS_AND_SPLITS
def test_ranks_splits_and_absent_parts(rank, max_rank, splits, dtype):
    slots = [None] * 16 + [0, 3, None, 2, 1]
    adapters = widened(rank, INTER, dtype)
    check(dtype, *projection(21, 2 * INTER, splits, adapters, slots, max_rank))


@DTYPES
@ROWS
def test_rows(rows, dtype):
    """Of many rows, the sums are the matrix library's product, in the compute dtype."""
    check(dtype, *projection(rows, 2 * INTER, dtype=dtype))
    slots, adapters = [(None, 0, 1, 2)[row % 4] for row in range(rows)], widened(8, INTER, dtype)
    check(dtype, *projection(rows, 2 * INTER, 1, adapters, slots))


@DTYPES
@pytest.mark.parametrize("inter", [1, 63, 64, 65, 128, 200], ids="inter{}".format)
def test_widths(inter, dtype):
    check(dtype, *projection(17, 2 * inter, 2))
    adapters = widened(4, inter, dtype)
    check(dtype, *projection(17, 2 * inter, 1, adapters, [0, 1, 2] * 5 + [None, 0]))


@pytest.mark.filterwarnings("ignore:(invalid value|overflow) encountered")
@DTYPES
@pytest.mark.parametrize("which", ["low", "gate", "up"])
def test_infinities_stay_in_their_rows(which, dtype):
    adapters = widened(20, INTER, dtype)
    slots = [(None, 1, 0, 2)[row % 4] for row in range(19)]
    projected, gate_up = projection(19, 2 * INTER, 2, adapters, slots)
    theirs = [row for row, slot in enumerate(slots) if slot == 0]
    others = [row for row, slot in enumerate(slots) if slot != 0]
    if which == "low":
        projected.low[0, theirs, :, 3] = float("inf")
    else:
        adapters.pairs[0][["gate", "up"].index(which)][1][:, 3] = float("inf")
    got = silu_mul(projected, dtype)
    close(got[others], reference.silu_mul(gate_up)[others], dtype)
    assert got[theirs].isfinite().logical_not().any(1).all()


@DTYPES
@pytest.mark.parametrize("splits", [1, 2])
@pytest.mark.parametrize("rows", [3, 40])
def test_a_product_and_its_expand(rows, splits, dtype):
    adapters = Adapters([(33, 8), (0, 16), (64, 0)], (INTER, INTER), 96, dtype, rank_step=8)
    slots = [(2, None, 0, 1)[row % 4] for row in range(rows)]
    x, weight = place(randn(rows, 96, dtype=dtype)), place(randn(2 * INTER, 96, dtype=dtype, scale=96**-0.5))
    projected = linear(x, weight, lora=adapters.lora(slots, 128), tile=LinearTile(32, 32, splits, 3))
    segments = [(row, row + 1, slot) for row, slot in enumerate(slots) if slot is not None]
    gate_up = reference.lora_table_delta(x.float() @ weight.float().T, x, adapters.pairs, adapters.widths, segments)
    check(dtype, projected, gate_up)


@pytest.mark.filterwarnings("ignore:(invalid value|overflow) encountered")
@DTYPES
def test_extremes(dtype):
    """Gates for which the sigmoid is 0 or 1."""
    gate = torch.tensor([-1e4, -90.0, 0.0, 90.0, 1e4])
    sums = place(torch.cat([gate, torch.full((5,), 0.5)]).to(DEVICE)[None, None])
    check(dtype, Projected(sums), sums[0])


@DTYPES
def test_no_rows(dtype):
    assert silu_mul(Projected(randn(2, 0, 2 * INTER)), dtype).shape == (0, INTER)
