"""Drawing tokens at random: numbers that depend on nothing but seed, sample and position, and the inverse CDF."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

UInt64s = npt.NDArray[np.uint64]
# Weights are summed by chunks first, so that a running sum is taken over few numbers only.
CHUNK = 256


def splitmix64(state: UInt64s) -> UInt64s:
    """The output of SplitMix64 that follows each state (uint64).

    Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014; constants as in Vigna's
    splitmix64.c (public domain). A bijection, so distinct states give distinct outputs.
    """
    with np.errstate(over="ignore"):
        mixed = state + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def uniforms(seeds: list[int], samples: list[int], positions: list[int]) -> npt.NDArray[np.float64]:
    """A number in [0, 1) for each (seed, sample, position): the same whatever was drawn before or beside it.

    Args:
        seeds: Below 2**64.
        samples: Which of a request's samples.
        positions: Index of the token in its completion.
    """
    state = splitmix64(np.array(seeds, np.uint64)) ^ np.array(samples, np.uint64)
    state = splitmix64(splitmix64(state) ^ np.array(positions, np.uint64))
    return (state >> np.uint64(11)).astype(np.float64) * 2.0**-53


def inverse_cdf(weights: Tensor, uniform: Tensor) -> Tensor:
    """The token at which the running sum of the weights exceeds ``uniform`` times their sum.

    Tokens stay in the vocabulary's order: then logits that differ by rounding nearly always give the same token, which
    they would not if tokens of nearly equal weight could change places.

    Args:
        weights: float32 [rows, vocab], at least 0; need not sum to 1.
        uniform: float64 [rows], in [0, 1).

    Returns:
        int64 [rows]. A token of weight 0 is never chosen unless all weights are 0.
    """
    rows, vocab = weights.shape
    if vocab % CHUNK:
        weights = F.pad(weights, (0, -vocab % CHUNK))
    chunks = weights.view(rows, -1, CHUNK)
    sums = chunks.sum(-1).double()
    target = uniform * sums.cumsum(-1)[:, -1]
    chunk, before = _first_above(sums, target)
    inner = chunks[torch.arange(rows, device=weights.device), chunk].double()
    token, _ = _first_above(inner, target - before)
    return chunk * CHUNK + token


def _first_above(weights: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Index of the first positive weight whose running sum exceeds the target (else of the last), and the sum before.

    Args:
        weights: float64 [rows, n].
        target: float64 [rows].

    Returns:
        int64 [rows] and float64 [rows].
    """
    sums = weights.cumsum(-1)
    index = torch.arange(weights.shape[-1], device=weights.device)
    positive = weights > 0
    # Rounding may leave the target at or above the last sum: then the last positive weight is meant.
    last = torch.where(positive, index, 0).amax(-1, keepdim=True)
    first = torch.where(positive & (sums > target[:, None]), index, last).amin(-1, keepdim=True)
    return first[:, 0], (sums.gather(-1, first) - weights.gather(-1, first))[:, 0]
