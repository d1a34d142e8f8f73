"""The low-rank path of training: values and gradients against autograd of the float32 specification."""

import pytest
import torch

from alorakit.kernels import ops, reference, torch_ops, triton_lora_linear
from alorakit.kernels.backend import use_backend

from .devices import DEVICE, DTYPES, ROWS, TOLERANCE, close, poisoned, randn

WIDTHS = (144, 48, 48)


class Problem:
    """Inputs between NaNs, so that what is read outside of them shows."""

    def __init__(self, rows, in_features, widths, adapted, rank, dtype, x_dtype=None):
        self.widths, self.scale = widths, 2.0
        self.out = self.inside(randn(rows, sum(widths), dtype=dtype))
        self.x = self.inside(randn(rows, in_features, dtype=x_dtype or dtype)).requires_grad_()
        self.grad = self.inside(randn(rows, sum(widths), dtype=dtype))
        self.a = (randn(len(adapted) * rank, in_features) / in_features**0.5).requires_grad_()
        self.b = [
            (randn(width, rank) / rank**0.5).requires_grad_() if part in adapted else None
            for part, width in enumerate(widths)
        ]

    @staticmethod
    def inside(values):
        memory = poisoned(values.shape[0] + 64, values.shape[1] + 16, dtype=values.dtype)
        view = memory[: values.shape[0], : values.shape[1]]
        return view.copy_(values).detach()

    def run(self, op):
        """Result, and the gradients of out, x, a and the adapted B."""
        out = self.out.clone(memory_format=torch.preserve_format).requires_grad_()
        result = op(out * 1, self.x, self.a, self.b, self.widths, self.scale)
        wanted = [out, self.x, self.a, *(b for b in self.b if b is not None)]
        return result.detach(), *torch.autograd.grad(result, wanted, self.grad)


def check(problem):
    got, want = problem.run(triton_lora_linear.lora_linear), problem.run(reference.lora_linear)
    for name, ours, theirs in zip(("out", "d_out", "d_x", "d_a", "d_b", "d_b", "d_b"), got, want, strict=False):
        assert ours.dtype == theirs.dtype, name
        scale = theirs.abs().max().clamp(min=1).float()  # sums over many rows and columns
        close(ours / scale, theirs / scale, ours.dtype)


@DTYPES
@ROWS
@pytest.mark.parametrize("adapted", [(0, 1, 2), (1,), (0, 2)], ids=str)
def test_parts(adapted, rows, dtype):
    check(Problem(rows, 80, WIDTHS, adapted, 8, dtype))


@DTYPES
@pytest.mark.parametrize("rank", [1, 8, 16, 33, 64, 256])
def test_ranks(rank, dtype):
    check(Problem(37, 72, (65, 7), (0, 1), rank, dtype))


@DTYPES
@pytest.mark.parametrize("widths,in_features", [((1,), 1), ((33, 7, 130), 31), ((1100,), 1056)], ids=str)
def test_odd_shapes(widths, in_features, dtype):
    check(Problem(20, in_features, widths, tuple(range(len(widths))), 6, dtype))


@DTYPES
def test_float32_input_after_dropout(dtype):
    check(Problem(20, 64, (48,), (0,), 8, dtype, x_dtype=torch.float32))


@DTYPES
def test_no_rows(dtype):
    problem = Problem(0, 64, (48,), (0,), 8, dtype)
    result, *gradients = problem.run(triton_lora_linear.lora_linear)
    assert result.shape == (0, 48) and all(not gradient.any() for gradient in gradients)


def test_a_gradient_of_one_repeated_row():
    problem = Problem(5, 64, (48,), (0,), 8, torch.float32)
    problem.grad = torch.ones((), device=DEVICE).expand(5, 48)  # as .sum() gives it: strides 0
    check(problem)


def test_the_first_layer_needs_no_gradient_of_its_input():
    problem = Problem(5, 64, (48,), (0,), 8, torch.float32)
    problem.x = problem.x.detach()
    result = triton_lora_linear.lora_linear(problem.out.clone(), problem.x, problem.a, problem.b, (48,), 2.0)
    want = reference.lora_linear(problem.out, problem.x, problem.a, problem.b, (48,), 2.0)
    for ours, theirs in zip(
        torch.autograd.grad(result, [problem.a, *problem.b], problem.grad),
        torch.autograd.grad(want, [problem.a, *problem.b], problem.grad),
        strict=True,
    ):
        close(ours, theirs, torch.float32)


def test_only_input_and_intermediate_are_saved():
    problem, saved = Problem(40, 64, (4096,), (0,), 8, torch.float32), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.shape) or t, lambda t: t):
        triton_lora_linear.lora_linear(problem.out.clone(), problem.x, problem.a, problem.b, (4096,), 1.0)
    assert sorted(saved) == sorted([(40, 64), (40, 8), (8, 64), (4096, 8)])


@DTYPES
def test_torch_path(dtype):
    problem = Problem(7, 64, WIDTHS, (0, 2), 8, dtype)
    for ours, theirs in zip(problem.run(torch_ops.lora_linear), problem.run(reference.lora_linear), strict=True):
        torch.testing.assert_close(ours.float(), theirs.float(), atol=TOLERANCE[dtype] * 8, rtol=TOLERANCE[dtype])


def test_dispatch(monkeypatch):
    problem, called = Problem(3, 64, (48,), (0,), 8, torch.float32), []
    monkeypatch.setattr(triton_lora_linear, "lora_linear", lambda *args: called.append("triton"))
    monkeypatch.setattr(torch_ops, "lora_linear", lambda *args: called.append("torch"))
    try:
        for name in ("torch", "triton"):
            use_backend(name)
            ops.lora_linear(problem.out, problem.x, problem.a, problem.b, (48,), 1.0)
    finally:
        use_backend(None)
    assert called == ["torch", "triton"]


@pytest.mark.slow
@DTYPES
@pytest.mark.parametrize("rank", [8, 33, 64])
@pytest.mark.parametrize("rows", [65, 513])
def test_model_shapes(rows, rank, dtype):
    check(Problem(rows, 1152, (1152, 192, 192), (0, 1, 2), rank, dtype))
