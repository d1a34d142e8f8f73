"""Top-k, top-p and min-p keep the tokens that transformers' warpers keep."""

import pytest
import torch

from alorakit.engine import truncation
from alorakit.engine.request import SamplingParams
from alorakit.engine.truncation import Truncation

CASES = [
    {},
    {"top_k": 1},
    {"top_k": 5},
    {"top_k": 10**6},
    {"top_p": 1e-300},
    {"top_p": 0.3},
    {"top_p": 0.95},
    {"top_p": 0.9999},
    {"min_p": 0.1},
    {"min_p": 1.0},
    {"top_k": 20, "top_p": 0.7},
    {"top_k": 40, "top_p": 0.9, "min_p": 0.2},
]


def truncated(logits, cases):
    logits = logits - logits.amax(-1, keepdim=True)
    params = [SamplingParams(temperature=1.0, **case) for case in cases]
    Truncation.of(params, logits.shape[-1], logits.device).apply(logits)
    return logits.isfinite()


def reference(row, top_k=0, top_p=1.0, min_p=0.0):
    """One row by transformers' warpers."""
    from transformers import MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    row = row[None].double()
    if top_k:
        row = TopKLogitsWarper(top_k)(None, row)
    if top_p < 1.0:
        row = TopPLogitsWarper(top_p)(None, row)
    if min_p:
        row = MinPLogitsWarper(min_p)(None, row)
    return row[0].isfinite()


@pytest.mark.parametrize("vocab", [3, 300, 5000])
@pytest.mark.parametrize("scale", [0.1, 3.0], ids=["flat", "peaked"])
def test_kept_tokens_equal_transformers(vocab, scale):
    logits = torch.randn(len(CASES), vocab, generator=torch.Generator().manual_seed(vocab)) * scale
    kept = truncated(logits, CASES)
    for row, case in enumerate(CASES):
        case = case | ({"top_k": min(case["top_k"], vocab)} if "top_k" in case else {})
        assert torch.equal(kept[row], reference(logits[row], **case)), case


def test_a_row_does_not_depend_on_the_others():
    logits = torch.randn(len(CASES), 2000, generator=torch.Generator().manual_seed(0))
    together = truncated(logits, CASES)
    for row, case in enumerate(CASES):
        assert torch.equal(truncated(logits[row : row + 1], [case])[0], together[row])


@pytest.mark.parametrize("width", [1, 2, 64, 4096])
def test_the_width_looked_at_first_changes_nothing(width, monkeypatch):
    logits = torch.randn(len(CASES), 900, generator=torch.Generator().manual_seed(1)) * 2
    want = truncated(logits, CASES)
    monkeypatch.setattr(truncation, "WIDTH", width)
    assert torch.equal(truncated(logits, CASES), want)


def test_rows_are_sorted_whole_only_if_they_must_be(monkeypatch):
    sorted_rows = []
    sort = torch.Tensor.sort
    monkeypatch.setattr(torch.Tensor, "sort", lambda self, **kw: (sorted_rows.append(len(self)), sort(self, **kw))[1])
    peaked = torch.randn(4, 5000, generator=torch.Generator().manual_seed(2)) * 8
    truncated(peaked, [{"top_p": 0.95}, {"top_k": 50}, {"min_p": 0.1}, {}])
    assert sorted_rows == []
    peaked[2] = 0.0
    truncated(peaked, [{"top_p": 0.95}, {"top_k": 50}, {"top_p": 0.5}, {"top_k": 2000}])
    assert sorted_rows == [2]


def test_ties_with_the_least_kept_token_are_kept_and_forbidden_tokens_are_not():
    logits = torch.tensor([[1.0, 2.0, 2.0, 2.0, 0.0], [float("-inf"), 0.0, float("-inf"), -1.0, float("-inf")]])
    assert truncated(logits, [{"top_k": 1}, {"top_k": 4}]).tolist() == [
        [False, True, True, True, False],
        [False, True, False, True, False],
    ]
    assert truncated(logits, [{"top_p": 0.9}, {"top_p": 0.99}])[1].tolist() == [False, True, False, True, False]
