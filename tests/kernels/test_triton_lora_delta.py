"""Deltas of several adapters on a prefill-sized batch, against the float32 specification."""

import numpy as np
import pytest
import torch

from alorakit.kernels import reference, triton_lora_delta
from alorakit.kernels.lora_table import lora_block_m, lora_tiles

from .adapters import POPULARITY, RANKS, Adapters
from .devices import DEVICE, DTYPES, ROWS, close, poisoned, randn

WIDTHS = (80, 48, 48)


def check(adapters, in_features, rows, segments, dtype, block_m=None, max_rank=None):
    """Compare with the reference; rows and columns that no adapter touches must not change at all."""
    widths = adapters.table.widths
    padded_x = poisoned(rows + 64, in_features + 16, dtype=dtype)
    padded_out = poisoned(rows + 64, sum(widths) + 16, dtype=dtype)
    x, out = padded_x[:rows, :in_features], padded_out[:rows, : sum(widths)]
    x.copy_(randn(rows, in_features, dtype=dtype))
    out.copy_(randn(rows, sum(widths), dtype=dtype))
    before = padded_out.clone()
    want = reference.lora_table_delta(out, x, adapters.pairs, widths, segments)
    adapted = torch.zeros(rows, dtype=torch.bool, device=DEVICE)
    for start, end, _ in segments:
        adapted[start:end] = True
    x[~adapted] = float("nan")
    block_m = block_m or lora_block_m(segments)
    tiles = lora_tiles(segments, block_m)
    tiles = np.concatenate([tiles, np.full((2, 3), -1, np.int32)])  # as a captured graph has
    tiles = torch.from_numpy(tiles).to(DEVICE)
    triton_lora_delta.lora_delta(out, x, adapters.table, tiles, block_m, max_rank or adapters.max_rank)
    close(out, want, dtype)
    assert torch.equal(out[~adapted], before[:rows, : sum(widths)][~adapted])
    assert padded_out[rows:].isnan().all() and padded_out[:, sum(widths) :].isnan().all()
    assert segments == [] or not torch.equal(out, before[:rows, : sum(widths)])


def rows_of(slots):
    """One segment of one row for each slot that is not None."""
    return [(row, row + 1, slot) for row, slot in enumerate(slots) if slot is not None]


@DTYPES
@ROWS
@pytest.mark.parametrize("popularity", POPULARITY)
def test_popularity_of_mixed_ranks(rows, popularity, dtype):
    adapters = Adapters([(rank,) * 3 for rank in RANKS], WIDTHS, 80, dtype)
    check(adapters, 80, rows, rows_of(POPULARITY[popularity](rows)), dtype)


@DTYPES
@ROWS
def test_absent_targets(rows, dtype):
    ranks = [(8, 0, 8), (0, 0, 16), (0, 33, 0), (64, 16, 0), (0, 0, 0), (8, 16, 33), (0, 1, 1)]
    check(Adapters(ranks, WIDTHS, 64, dtype), 64, rows, rows_of(POPULARITY["distinct"](rows)), dtype)


@DTYPES
@pytest.mark.parametrize("block_m", [16, 64])
@pytest.mark.parametrize("rank", [1, 8, 16, 33, 64, 256])
def test_segments(rank, block_m, dtype):
    adapters = Adapters([(rank,), (rank,)], (200,), 1104, dtype)  # two splits, the second one short
    check(adapters, 1104, 133, [(0, 65, 1), (66, 67, 0), (67, 68, 1), (70, 131, 0)], dtype, block_m)


@DTYPES
@pytest.mark.parametrize(
    "widths,in_features", [((33, 7, 130), 31), ((129, 5), 100), ((1,), 1), ((576,), 1536)], ids=str
)
def test_odd_shapes(widths, in_features, dtype):
    adapters = Adapters([(6,) * len(widths), (16,) * len(widths)], widths, in_features, dtype)
    check(adapters, in_features, 70, [(0, 5, 0), (5, 69, 1)], dtype)


@DTYPES
def test_a_larger_rank_than_in_the_batch_changes_nothing(dtype):
    adapters = Adapters([(8,)], (48,), 64, dtype)
    check(adapters, 64, 20, [(1, 20, 0)], dtype, max_rank=256)


@DTYPES
def test_nothing_to_do(dtype):
    adapters = Adapters([(8,)], (48,), 64, dtype)
    check(adapters, 64, 3, [], dtype)
    out, x = randn(0, 48, dtype=dtype), randn(0, 64, dtype=dtype)
    tiles = torch.empty(0, 3, dtype=torch.int32, device=DEVICE)
    triton_lora_delta.lora_delta(out, x, adapters.table, tiles, 16, 8)


@pytest.mark.slow
@DTYPES
@pytest.mark.parametrize("rank", [1, 8, 16, 33, 64, 256])
@pytest.mark.parametrize("rows", [65, 200, 513])
def test_model_shapes(rows, rank, dtype):
    adapters = Adapters([(rank,) * 3, (8, 0, 16)], (1536, 512, 512), 2048, dtype)
    check(adapters, 2048, rows, [(0, 30, 1), (31, rows - 7, 0), (rows - 7, rows, 1)], dtype)


def test_tiles():
    assert lora_tiles([], 16).shape == (0, 3)
    tiles = lora_tiles([(70, 72, 0), (0, 20, 3), (20, 37, 3), (37, 40, 2)], 16)
    assert tiles.dtype == np.int32
    assert tiles.tolist() == [[0, 16, 3], [16, 16, 3], [32, 5, 3], [37, 3, 2], [70, 2, 0]]
    assert (lora_block_m([]), lora_block_m([(0, 16, 1), (16, 20, 2)]), lora_block_m([(3, 20, 1)])) == (16, 16, 64)
