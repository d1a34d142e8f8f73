"""Log-probabilities of given tokens: values and gradients against autograd of the float32 specification."""

import pytest
import torch

from alorakit.kernels import ops, reference, torch_ops, triton_cross_entropy
from alorakit.kernels.backend import use_backend

from .devices import DEVICE, DTYPES, GPU, ROWS, TOLERANCE, close, poisoned, randn


def problem(num_rows, hidden_size, vocab_size, rows, where, dtype):
    """(hidden, weight, rows, where, targets); rows that are not read, and what lies around, are NaN."""
    memory = poisoned(num_rows + 64, hidden_size + 16, dtype=dtype)
    hidden = memory[:num_rows, :hidden_size]
    rows, where = torch.tensor(rows, device=DEVICE), torch.tensor(where, device=DEVICE)
    hidden[rows] = randn(len(rows), hidden_size, dtype=dtype)
    padded = poisoned(vocab_size + 200, hidden_size, dtype=dtype)
    weight = padded[:vocab_size].copy_(randn(vocab_size, hidden_size, dtype=dtype, scale=2 * hidden_size**-0.5))
    targets = (torch.arange(len(where)) * 977 % vocab_size).to(DEVICE)
    targets[-1:] = vocab_size - 1
    return hidden.detach().requires_grad_(), weight, rows, where, targets


def check(hidden, weight, rows, where, targets, divisor, dtype):
    got = triton_cross_entropy.linear_cross_entropy(hidden, weight, rows[where], targets, divisor)
    clean = hidden.detach().nan_to_num().requires_grad_()
    want = reference.linear_cross_entropy(clean, weight, rows, where, targets, divisor)
    assert got.dtype == torch.float32
    # Log-probabilities are some ten nats, and the kernel does not round the logits.
    close(got, want, dtype)
    grad = randn(len(where))
    (d_got,) = torch.autograd.grad(got, hidden, grad)
    (d_want,) = torch.autograd.grad(want, clean, grad)
    assert d_got.dtype == dtype
    close(d_got, d_want, dtype)
    others = torch.ones(len(hidden), dtype=torch.bool, device=DEVICE)
    others[rows] = False
    assert not d_got[others].any()


@DTYPES
@ROWS
@pytest.mark.parametrize("divisor", [1.0, 8.0])
def test_every_row(rows, divisor, dtype):
    check(*problem(rows, 64, 300, range(rows), range(rows), dtype), divisor, dtype)


@DTYPES
@pytest.mark.parametrize("vocab_size,hidden_size", [(1, 1), (127, 33), (129, 130), (513, 72)], ids=str)
def test_odd_shapes(vocab_size, hidden_size, dtype):
    check(*problem(21, hidden_size, vocab_size, [3, 20, 0, 7], [0, 1, 2, 3], dtype), 1.0, dtype)


@DTYPES
def test_candidates_that_share_rows(dtype):
    check(*problem(9, 64, 200, [8, 2, 5], [0, 0, 1, 2, 2, 2, 0], dtype), 1.0, dtype)


@DTYPES
def test_no_rows(dtype):
    hidden, weight, rows, _, targets = problem(4, 64, 200, [0, 1, 2, 3], [0], dtype)
    got = triton_cross_entropy.linear_cross_entropy(hidden, weight, rows[:0], targets[:0], 1.0)
    assert got.shape == (0,) and got.dtype == torch.float32
    (d_hidden,) = torch.autograd.grad(got.sum(), hidden)
    assert not d_hidden.any()


def test_more_rows_than_one_pass_of_the_gradient_takes(monkeypatch):
    monkeypatch.setattr(triton_cross_entropy, "ROWS_AT_ONCE", 16)
    check(*problem(50, 64, 130, range(40), range(40), torch.float32), 1.0, torch.float32)


def test_confident_rows_keep_their_gradient():
    """1 - p of a token that is nearly certain must not be lost in the rounding of p."""
    hidden, weight, rows, where, targets = problem(3, 64, 200, [0, 1, 2], [0, 1, 2], torch.float32)
    hidden = (weight[targets] * 4).detach().requires_grad_()
    check(hidden, weight, rows, where, targets, 1.0, torch.float32)


def test_large_logits_do_not_overflow():
    hidden, weight, rows, where, targets = problem(3, 64, 200, [0, 1, 2], [0, 1, 2], torch.float32)
    scaled = (hidden.detach() * 1000).requires_grad_()
    got = triton_cross_entropy.linear_cross_entropy(scaled, weight, rows[where], targets, 1.0)
    want = reference.linear_cross_entropy(scaled, weight, rows, where, targets, 1.0)
    torch.testing.assert_close(got, want, atol=1e-2, rtol=1e-4)


def test_nothing_of_the_vocabulary_is_saved():
    hidden, weight, rows, where, targets = problem(5, 64, 1000, range(5), range(5), torch.float32)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        triton_cross_entropy.linear_cross_entropy(hidden, weight, rows[where], targets, 1.0)
    assert all(tensor.numel() <= hidden.numel() or tensor is weight or tensor.shape == weight.shape for tensor in saved)


@DTYPES
def test_torch_path(dtype):
    hidden, weight, rows, where, targets = problem(9, 64, 200, [8, 2, 5], [0, 0, 1, 2], dtype)
    got = torch_ops.linear_cross_entropy(hidden, weight, rows, where, targets, 8.0)
    want = reference.linear_cross_entropy(hidden.nan_to_num(), weight, rows, where, targets, 8.0)
    torch.testing.assert_close(got, want, atol=2 * TOLERANCE[dtype], rtol=TOLERANCE[dtype])


def test_dispatch(monkeypatch):
    args, called = problem(3, 64, 200, [0, 1], [0, 1, 1], torch.float32), []
    monkeypatch.setattr(triton_cross_entropy, "linear_cross_entropy", lambda *args: called.append("triton"))
    monkeypatch.setattr(torch_ops, "linear_cross_entropy", lambda *args: called.append("torch"))
    try:
        for name in ("torch", "triton"):
            use_backend(name)
            ops.linear_cross_entropy(*args, 1.0)
    finally:
        use_backend(None)
    assert called == ["torch", "triton"]


@pytest.mark.slow
@DTYPES
@pytest.mark.parametrize("rows", [40, 300])
def test_model_shapes(rows, dtype):
    check(*problem(rows, 2048 if GPU else 576, 49152 if GPU else 5000, range(rows), range(rows), dtype), 8.0, dtype)
