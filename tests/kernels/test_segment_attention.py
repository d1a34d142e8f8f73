"""Training's attention and wide products against their specifications: forward and gradients."""

import pytest
import torch

from alorakit.engine.branches import Branches
from alorakit.kernels import ops, reference, torch_segments
from alorakit.training.segments import Segment

# Relative to values of order one; gradients of the bfloat16 path sum rounded probabilities.
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 3e-2}
DTYPES = pytest.mark.parametrize("dtype", list(TOLERANCE), ids=["fp32", "bf16"])
CANDIDATES = {"trunk": [], "branches": [[7], [1, 2, 3, 4], [1, 5], [6] * 9]}


def segment(rows, kept, candidates, kv_heads=2, dim=8, dtype=torch.float32):
    """``rows`` rows over ``kept`` keys, the last ones of them branches."""
    branches = Branches.of(candidates)
    trunk = rows - branches.num_rows
    return Segment(torch.randn(1, 2, kv_heads, kept, dim).to(dtype), tuple(range(trunk)), branches)


def visibility(part, window):
    """Which keys a row sees, [rows, num_kept + rows]: its own branch and the trunk, not the future, in the window."""
    keys = [(None, position) for position in range(part.num_kept + len(part.trunk))]
    keys += [
        (start, keys[-1][1] + 1 + at) for start, at in zip(part.branches.starts, part.branches.positions, strict=True)
    ]
    rows = keys[part.num_kept :]
    return torch.tensor(
        [
            [(branch is None or branch == own) and 0 <= here - there < (window or here + 1) for branch, there in keys]
            for own, here in rows
        ]
    )


def inputs(part, group, dtype=torch.float32):
    """Queries, keys, values and the kept ones."""
    kv_heads, _, dim = part.kv.shape[2:]
    shapes = [(part.num_rows, heads, dim) for heads in (group * kv_heads, kv_heads, kv_heads)]
    return [torch.randn(shape).to(dtype) for shape in shapes]


def grads(function, tensors, weights):
    """The result, and the gradients of its weighted sum."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    out = function(*leaves)
    return [out, *torch.autograd.grad((out.float() * weights).sum(), leaves)]


def compare(part, group, window, dtype=torch.float32, attention=ops.segment_attention):
    tensors, kept = inputs(part, group, dtype), part.kv[0]
    plan, scale = part.plan(window, dtype, kept.device), part.kv.shape[-1] ** -0.5
    visible = visibility(part, window)
    weights = torch.randn(part.num_rows, tensors[0].shape[1] * tensors[0].shape[2])
    got = grads(lambda *own: attention(*own, kept, plan, scale), tensors, weights)
    wide = [tensor.float() for tensor in tensors]
    want = grads(lambda *own: reference.segment_attention(*own, kept.float(), visible, scale), wide, weights)
    for name, one, other in zip(("out", "dq", "dk", "dv"), got, want, strict=True):
        assert one.dtype == dtype and one.shape == other.shape
        limit = TOLERANCE[dtype] * max(1.0, other.abs().max().item())
        torch.testing.assert_close(
            one.float(), other, atol=limit, rtol=TOLERANCE[dtype], msg=lambda text, n=name: n + text
        )


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("window", [None, 5, 140])
@pytest.mark.parametrize("group", [1, 3])
@pytest.mark.parametrize("kept", [0, 1, 50])
@pytest.mark.parametrize("rows", [1, 2, 127, 128, 129, 300])
def test_rows_of_one_sequence(rows, kept, group, window):
    compare(segment(rows, kept, [], dim=8 if group == 1 else 24), group, window)


@pytest.mark.parametrize("window", [None, 5, 140])
@pytest.mark.parametrize("kept", [0, 1, 50])
@pytest.mark.parametrize("rows", [13, 127, 128, 129, 139, 300])
def test_branches(rows, kept, window):
    compare(segment(rows, kept, CANDIDATES["branches"]), 3, window)


def test_branches_without_a_trunk_of_their_own():
    compare(segment(12, 50, CANDIDATES["branches"]), 3, 5)


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("kind", CANDIDATES)
@pytest.mark.parametrize("products", [True, False], ids=["bf16 products", "float32 products"])
def test_bfloat16(kind, window, products, monkeypatch):
    if products and not ops.can_pack(torch.device("cpu"), torch.bfloat16):
        pytest.skip("this CPU has no bfloat16 instructions")
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: products)
    compare(segment(140, 20, CANDIDATES[kind], dim=24, dtype=torch.bfloat16), 3, window, torch.bfloat16)


@pytest.mark.parametrize("window", [None, 5, 140])
@pytest.mark.parametrize("kind", CANDIDATES)
@pytest.mark.parametrize("rows", [13, 300])
def test_all_rows_at_once_as_on_a_gpu(rows, kind, window):
    part = segment(rows, 20, CANDIDATES[kind])
    plan = part.plan(window, torch.float32, part.kv.device)
    assert torch.equal(plan.whole == 0, visibility(part, window))
    compare(part, 3, window, attention=torch_segments._whole)


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("kind", CANDIDATES)
def test_gradients_are_those_of_finite_differences(kind, window):
    part = segment(15, 3, CANDIDATES[kind], dim=4, dtype=torch.float64)
    tensors = [tensor.requires_grad_() for tensor in inputs(part, 2, torch.float64)]
    plan = part.plan(window, torch.float64, part.kv.device)
    assert torch.autograd.gradcheck(lambda *own: ops.segment_attention(*own, part.kv[0], plan, 0.5), tensors)


def test_kept_keys_take_no_gradient_and_inputs_stay():
    part = segment(5, 3, [])
    tensors, kept = inputs(part, 1), part.kv[0].requires_grad_()
    before = [tensor.clone() for tensor in (*tensors, kept)]
    leaves = [tensor.requires_grad_() for tensor in tensors]
    ops.segment_attention(*leaves, kept, part.plan(None, torch.float32, kept.device), 0.3).sum().backward()
    assert kept.grad is None and all(leaf.grad is not None for leaf in leaves)
    assert all(torch.equal(*pair) for pair in zip(before, (*leaves, kept), strict=True))


# -- products in float32


@DTYPES
@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize("rows", [1, 3, 133])
def test_linear_wide(rows, bias, dtype):
    x, weight = torch.randn(rows, 40).to(dtype), (torch.randn(24, 40) / 40**0.5).to(dtype)
    offset = torch.randn(24).to(dtype) if bias else None
    weights = torch.randn(rows, 24)
    got = grads(lambda x: ops.linear_wide(x, weight, offset), [x], weights)
    want = grads(lambda x: reference.linear_wide(x, weight, offset), [x], weights)
    for one, other in zip(got, want, strict=True):
        assert one.dtype == dtype
        torch.testing.assert_close(one.float(), other.float(), atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
