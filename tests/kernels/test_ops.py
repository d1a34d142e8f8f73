"""Every op against its float32 specification, at awkward shapes."""

import pytest
import torch

from alorakit.engine.block_pool import slot_runs
from alorakit.engine.branches import Branches, additive_mask
from alorakit.kernels import ops, reference

# Rounding of one op's result relative to its size: 2^-8 for bfloat16 with some headroom.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
DTYPES = pytest.mark.parametrize("dtype", list(TOLERANCE), ids=["fp32", "bf16"])
ROWS = pytest.mark.parametrize("rows", [1, 3, 7, 133])


def close(got, want, dtype):
    torch.testing.assert_close(got.float(), want.float(), atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@DTYPES
@ROWS
@pytest.mark.parametrize("hidden", [64, 576])
def test_rms_norm(rows, hidden, dtype):
    x, weight = torch.randn(rows, hidden).to(dtype), torch.randn(hidden).to(dtype)
    close(ops.rms_norm(x, weight, 1e-5), reference.rms_norm(x, weight, 1e-5), dtype)


@DTYPES
@ROWS
@pytest.mark.parametrize("dim", [24, 128])
def test_rms_norm_of_heads(rows, dim, dtype):
    x, weight = torch.randn(rows, 7, dim).to(dtype)[:, 1:4], torch.randn(dim).to(dtype)  # some heads of a fused tensor
    close(ops.rms_norm(x, weight, 1e-5), reference.rms_norm(x, weight, 1e-5), dtype)


@DTYPES
@ROWS
@pytest.mark.parametrize("dim", [16, 64])
def test_rope(rows, dim, dtype):
    x = torch.randn(rows, 5, dim).to(dtype)
    angle = torch.rand(rows, 1, dim // 2) * 6
    cos = torch.cat([angle.cos(), angle.cos()], -1).to(dtype)
    sin = torch.cat([-angle.sin(), angle.sin()], -1).to(dtype)
    got = ops.rope(x, cos, sin)
    close(got, reference.rope(x, cos, sin), dtype)
    close(got.float().norm(dim=-1), x.float().norm(dim=-1), dtype)  # a rotation keeps lengths


@DTYPES
@ROWS
def test_silu_mul(rows, dtype):
    x = torch.randn(rows, 2 * 48).to(dtype)
    close(ops.silu_mul(x), reference.silu_mul(x), dtype)


@pytest.mark.parametrize("shape", [(40, 576), (33, 100)], ids=str)
def test_packed_linear(shape):
    dtype = torch.bfloat16
    if not ops.can_pack(torch.device("cpu"), dtype):
        pytest.skip("this CPU has no bfloat16 instructions")
    weight = torch.randn(shape).to(dtype) / shape[1] ** 0.5
    bias = torch.randn(shape[0]).to(dtype)
    packed = ops.pack_weight(weight)
    for rows in (1, 3, 133):
        x = torch.randn(rows, shape[1]).to(dtype)
        close(ops.linear_packed(x, packed, bias), x.float() @ weight.float().T + bias.float(), dtype)


def cache_of(kv_heads, blocks, size, dim, dtype):
    """Two layers' paged cache."""
    return torch.randn(2, 2, kv_heads, blocks * size, dim).to(dtype)


@DTYPES
@pytest.mark.parametrize("heads,kv_heads,dim", [(4, 2, 16), (9, 3, 64), (3, 3, 24), (8, 1, 32)])
@pytest.mark.parametrize("rows,kv_len", [(1, 1), (1, 37), (3, 37), (37, 37), (7, 133)])
@pytest.mark.parametrize("window", [None, 11])
def test_paged_attention(heads, kv_heads, dim, rows, kv_len, window, dtype):
    size = 16
    blocks = [5, 6, 2, 9, 10, 11, 0, 1, 7][: -(-kv_len // size)]
    cache = cache_of(kv_heads, 12, size, dim, dtype)
    q = torch.randn(rows, heads, dim).to(dtype)
    span = range(kv_len - rows, kv_len)
    first = 0 if window is None else max(0, span.start - window + 1)
    mask = additive_mask(span, first, dtype, q.device, window=window)
    runs = slot_runs(blocks, size, first, kv_len)
    attend = ops.paged_attention(cache, ops.AttentionPlan(rows, [ops.AttentionSpan(0, rows, runs, mask)]), dim**-0.5)
    distance = torch.tensor(span)[:, None] - torch.arange(first, kv_len)
    visible = (distance >= 0) & (distance < (window or kv_len))
    slots = [slot for start, end in runs for slot in range(start, end)]
    for layer, (k_cache, v_cache) in enumerate(cache):
        want = reference.paged_attention(q, k_cache, v_cache, slots, visible, dim**-0.5)
        close(attend(layer, q), want, dtype)


@DTYPES
@pytest.mark.parametrize("blocks", [[2, 0, 1], [0, 1, 2], [5, 1, 3, 0]], ids=str)
def test_kv_write_then_read(blocks, dtype):
    size, end = 8, 8 * len(blocks) - 3
    cache = torch.zeros(2, 2, 64, 8, dtype=dtype)
    k, v = torch.randn(2, end - 5, 2, 8).to(dtype)
    runs = slot_runs(blocks, size, 5, end)
    slots = [slot for start, stop in runs for slot in range(start, stop)]
    ops.kv_write(cache, k, v, torch.tensor(slots), runs)
    assert torch.equal(cache[0][:, slots], k.transpose(0, 1))
    assert torch.equal(cache[1][:, slots], v.transpose(0, 1))
    assert cache.count_nonzero() == k.count_nonzero() + v.count_nonzero()


@pytest.mark.parametrize("window", [None, 4])
def test_branches_see_the_trunk_and_themselves(window):
    branches = Branches.of([[7], [8, 9, 10], [8, 11]])
    assert branches.token_ids == (8, 9, 8)
    assert branches.positions == (0, 1, 0)
    assert branches.targets == (((-1, 7),), ((-1, 8), (0, 9), (1, 10)), ((-1, 8), (2, 11)))
    trunk = 5
    starts = [trunk + s for s in branches.starts]
    mask = additive_mask(range(3, 8), 0, torch.float32, torch.device("cpu"), trunk, starts, window)
    seen = [[j for j in range(8) if row[j] == 0] for row in mask]
    # Positions of the kv indices 0 … 7: 0 1 2 3 4, then 5 6 (first branch with rows) and 5 (second).
    assert seen == (
        [[0, 1, 2, 3], [0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 3, 4, 7]]
        if window is None
        else [[0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5], [3, 4, 5, 6], [2, 3, 4, 7]]
    )
