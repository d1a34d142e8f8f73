"""Random numbers that depend on nothing but their indices, and tokens drawn by them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alorakit.engine.draw import inverse_cdf, splitmix64, uniforms

LARGEST = float(1.0 - 2.0**-53)


def draw(weights, uniform):
    return inverse_cdf(torch.tensor(weights, dtype=torch.float32), torch.tensor(uniform, dtype=torch.float64)).tolist()


def test_splitmix64_gives_the_published_numbers():
    """The first five outputs for seed 1234567, as printed by Vigna's splitmix64.c."""
    states = np.array([(1234567 + i * 0x9E3779B97F4A7C15) % 2**64 for i in range(5)], dtype=np.uint64)
    assert splitmix64(states).tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


def test_numbers_depend_on_each_index_and_on_nothing_else():
    cases = [(seed, sample, position) for seed in (0, 1, 2**64 - 1) for sample in (0, 1) for position in (0, 1, 900)]
    together = uniforms(*map(list, zip(*cases, strict=True))).tolist()
    assert together == [uniforms([a], [b], [c])[0] for a, b, c in cases]
    assert len(set(together)) == len(cases)
    assert all(0.0 <= u < 1.0 for u in together)


def test_numbers_are_uniform_and_neighbours_are_independent():
    """Chi-square over 16 x 16 cells of (this number, the next one); 255 degrees of freedom, p = 1e-6 at 369."""
    count = 1 << 16
    for indices in (
        ([5] * count, [0] * count, list(range(count))),
        ([5] * count, list(range(count)), [0] * count),
        (list(range(count)), [0] * count, [0] * count),
    ):
        cells = (uniforms(*indices) * 16).astype(int)
        observed = np.bincount(cells * 16 + np.roll(cells, 1), minlength=256)
        assert ((observed - count / 256) ** 2 / (count / 256)).sum() < 369


@pytest.mark.parametrize("vocab", [1, 3, 255, 256, 257, 1000])
@pytest.mark.parametrize("rows", [1, 3, 7, 133])
def test_draws_invert_the_running_sum(rows, vocab):
    generator = torch.Generator().manual_seed(rows * vocab)
    weights = torch.rand(rows, vocab, generator=generator)
    uniform = torch.rand(rows, generator=generator, dtype=torch.float64)
    got = inverse_cdf(weights, uniform)
    sums = weights.double().cumsum(-1)
    target = uniform * sums[:, -1]
    for row, token in enumerate(got.tolist()):
        below = sums[row, token - 1] if token else 0.0
        assert below - 1e-4 <= target[row] <= sums[row, token] + 1e-4
    assert inverse_cdf(weights[-1:], uniform[-1:]).item() == got[-1]


@settings(max_examples=300, deadline=None)
@given(
    uniform=st.floats(0.0, 1.0, exclude_max=True),
    positive=st.sets(st.integers(0, 599), min_size=1, max_size=6),
    scale=st.sampled_from([1e-44, 1e-20, 1.0, 1e20]),
)
def test_a_token_of_weight_zero_is_never_drawn(uniform, positive, scale):
    weights = [scale * (1 + i % 3) if i in positive else 0.0 for i in range(600)]
    assert draw([weights], [uniform])[0] in positive


def test_the_ends_of_the_range():
    weights = [0.0, 0.0, 1.0, 2.0, 0.0, 3.0, 0.0]
    assert draw([weights] * 3, [0.0, LARGEST, 0.5]) == [2, 5, 5]
    assert draw([[0.0] * 300 + [1e-30] + [0.0] * 300] * 2, [0.0, LARGEST]) == [300, 300]


def test_frequencies_are_the_probabilities():
    """Chi-square with 299 degrees of freedom: p = 1e-6 at 422."""
    count, vocab = 100_000, 300
    weights = torch.rand(vocab, generator=torch.Generator().manual_seed(1)) + 0.05
    uniform = torch.from_numpy(uniforms([7] * count, [0] * count, list(range(count))))
    tokens = torch.cat([inverse_cdf(weights.expand(len(part), -1), part) for part in uniform.split(10_000)])
    expected = weights.double() / weights.double().sum() * count
    observed = torch.bincount(tokens, minlength=vocab)
    assert ((observed - expected) ** 2 / expected).sum() < 422
