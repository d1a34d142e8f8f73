"""Penalties as vLLM and transformers define them, from counts that are kept token by token."""

import random
from collections import Counter

import numpy as np
import pytest
import torch

from alorakit.engine.penalties import TokenCounts, ban, penalise
from alorakit.engine.request import SamplingParams

VOCAB = 50
SETTINGS = [
    dict(repetition_penalty=1.3),
    dict(repetition_penalty=0.5),
    dict(presence_penalty=0.7),
    dict(frequency_penalty=-0.4),
    dict(repetition_penalty=2.0, presence_penalty=1.0, frequency_penalty=0.25),
]


def reference(logits, prompt, completion, params):
    """vLLM's apply_penalties, one token after the other."""
    logits = logits.clone()
    for token in {*prompt, *completion}:
        value, penalty = logits[token], params.repetition_penalty
        logits[token] = value / penalty if value > 0 else value * penalty
    for token, count in Counter(completion).items():
        logits[token] -= params.frequency_penalty * count + params.presence_penalty
    return logits


def ids(seed, count):
    rng = random.Random(seed)
    return [rng.randrange(VOCAB) for _ in range(count)]


@pytest.mark.parametrize("ahead", [(), (3, 3, 49, 7)], ids=["none", "draft"])
def test_penalties_equal_the_definition(ahead):
    logits = torch.randn(len(SETTINGS) + 1, VOCAB, generator=torch.Generator().manual_seed(0))
    want, counted = logits.clone(), []
    params = [SamplingParams(**s) for s in SETTINGS]
    for row, p in enumerate(params):
        prompt, completion = ids(row, 9), ids(row + 50, 6 * row)
        counts = TokenCounts(prompt + completion, len(prompt), p)
        counts.update(prompt + completion)
        counted.append(counts.with_ahead(ahead))
        want[row + 1] = reference(logits[row + 1], prompt, [*completion, *ahead], p)
    penalise(logits, [row + 1 for row in range(len(params))], counted, params)
    torch.testing.assert_close(logits, want)


def test_repetition_penalty_equals_transformers():
    from transformers import RepetitionPenaltyLogitsProcessor

    prompt, completion = ids(1, 12), ids(2, 5)
    logits = torch.randn(1, VOCAB, generator=torch.Generator().manual_seed(3))
    want = RepetitionPenaltyLogitsProcessor(1.4)(torch.tensor([prompt + completion]), logits.clone())
    params = SamplingParams(repetition_penalty=1.4)
    counts = TokenCounts(prompt, len(prompt), params)
    counts.update(prompt + completion)
    penalise(logits, [0], [counts.with_ahead(())], [params])
    torch.testing.assert_close(logits, want)


def test_counts_are_kept_not_rebuilt():
    params = SamplingParams(repetition_penalty=1.1)
    prompt, completion = ids(5, 20), ids(6, 40)
    step_by_step = TokenCounts(prompt, len(prompt), params)
    for end in range(len(completion) + 1):
        tokens = prompt + completion[:end]
        step_by_step.update(tokens)
        step_by_step.with_ahead((1, 2, 1))  # leaves no trace
        found, counts = step_by_step.with_ahead(())
        assert dict(zip(found.tolist(), counts.tolist(), strict=True)) == {
            token: completion[:end].count(token) for token in tokens
        }
    step_by_step.update([])  # nothing is counted twice
    assert step_by_step.with_ahead(())[1].sum() == len(completion)


def test_the_prompt_is_not_listed_without_a_repetition_penalty():
    counts = TokenCounts([1, 2, 3], 3, SamplingParams(presence_penalty=1.0))
    assert len(counts.with_ahead(())[0]) == 0
    logits = torch.zeros(1, 5)
    penalise(logits, [0], [counts.with_ahead(())], [SamplingParams(presence_penalty=1.0)])
    assert logits.tolist() == [[0.0] * 5]


def test_bans_hit_their_rows_only():
    logits = torch.zeros(3, 4)
    ban(logits, [0, 2], [[1], [0, 3]])
    assert np.isneginf(logits.numpy()).tolist() == [
        [False, True, False, False],
        [False] * 4,
        [True, False, False, True],
    ]
