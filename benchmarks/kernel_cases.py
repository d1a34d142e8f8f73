"""Single kernels at the sizes of an 8B model: what each moves and computes, and how the decoder calls it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from alorakit.kernels import ops
from alorakit.kernels.ops import Projected
from benchmarks.kernel_inputs import MAX_RANK, Inputs

Call = Callable[[], object]


@dataclass(frozen=True)
class Sizes:
    """What is measured.

    Attributes:
        rows: Rows of products.
        finish: Rows of the kernels that finish a product.
        rank: Of adapters.
        many: Distinct adapters in the largest batch.
        context: Keys of a decoded row.
        long: Keys of a long context.
        own: Rows of a check.
        prefills: Lengths of prompts; the shortest is also what ``lora_delta`` is given.
        prefix: Keys that a batch's rows share.
    """

    rows: tuple[int, ...] = (1, 16, 64)
    finish: tuple[int, ...] = (1, 64)
    rank: int = 32
    many: int = 8
    context: int = 1024
    long: int = 32_768
    own: int = 23
    prefills: tuple[int, ...] = (2048, 8192)
    prefix: int = 8192


TINY = Sizes((1, 3), (1, 17), 8, 2, 24, 64, 5, (24, 40), 32)


@dataclass(frozen=True)
class Case:
    """One kernel at one size.

    Attributes:
        bytes: Read and written at least, each once.
        flops: Operations of its matrix products.
        make: Number of a copy -> the call, over buffers of that copy's own. All that is not the kernel is done here.
    """

    bytes: int
    flops: int
    make: Callable[[int], Call]


def cases(inputs: Inputs, sizes: Sizes) -> dict[str, Callable[[], Case]]:
    """Name -> what prepares the case; none costs the others anything if it fails."""
    found: dict[str, Callable[[], Case]] = {}
    for rows in sizes.rows:
        for name in ("qkv", "o", "gate_up", "down"):
            for num in (0, 1):
                found[f"linear {_title(name, rows, num, sizes)}"] = partial(
                    _linear, inputs, name, rows, num, sizes.rank
                )
        found[f"linear head, {rows} rows"] = partial(_head, inputs, rows)
    for rows in sizes.finish:
        for num in (0, 1) if rows == min(sizes.finish) else (0, 1, sizes.many):
            for kernel, name in (("rope_kv_write", "qkv"), ("add_norm", "o"), ("silu_mul", "gate_up")):
                found[_title(kernel, rows, num, sizes)] = partial(_finish, inputs, kernel, name, rows, num, sizes.rank)
    most = max(sizes.finish)
    attention = partial(_attention, inputs)
    found |= {
        f"attention decode, 1 row x {sizes.context}": partial(attention, 1, sizes.context - 1),
        f"attention decode, {most} rows x {sizes.context}": partial(attention, 1, sizes.context - 1, most),
        f"attention decode, 1 row x {sizes.long}": partial(attention, 1, sizes.long - 1),
        f"attention check, {sizes.own} rows x {sizes.long}": partial(attention, sizes.own, sizes.long),
        **{f"attention prefill, {length} rows": partial(attention, length, 0) for length in sizes.prefills},
        f"attention decode, {most} rows, one prefix of {sizes.prefix}": partial(attention, 1, sizes.prefix, most, True),
    }
    length = min(sizes.prefills)
    found[f"lora_delta {_title('qkv', length, 1, sizes)}"] = partial(_lora_delta, inputs, "qkv", length, sizes.rank)
    return found


def _title(name: str, rows: int, adapters: int, sizes: Sizes) -> str:
    with_adapters = f", {adapters} of rank {sizes.rank}" if adapters else ""
    return f"{name}, {rows} rows{with_adapters}"


def _linear(inputs: Inputs, name: str, rows: int, adapters: int, rank: int) -> Case:
    width, parts = inputs.widths(name)
    normed = name in ("qkv", "gate_up")

    def make(copy: int) -> Call:
        x, weight = inputs.random(rows, width), inputs.cut(copy, sum(parts), width)
        sums = inputs.sums(rows) if normed else None
        lora = inputs.lora(name, rows, adapters, rank)
        return lambda: ops.fused.linear(x, weight, None, sums, 1e-5, lora)

    params = sum(parts) * width + adapters * len(parts) * rank * width
    item = inputs.dtype.itemsize
    moved = params * item + rows * width * item + rows * sum(parts) * 4
    return Case(moved, 2 * rows * params, make)


def _head(inputs: Inputs, rows: int) -> Case:
    width, vocab, item = inputs.config.hidden_size, inputs.config.vocab_size, inputs.dtype.itemsize
    out = torch.empty(rows, vocab, dtype=torch.float32, device=inputs.device)

    def make(copy: int) -> Call:
        x, weight, sums = inputs.random(rows, width), inputs.cut(copy, vocab, width), inputs.sums(rows)
        return lambda: ops.fused.linear(x, weight, None, sums, 1e-5, out=out)

    moved = (vocab + rows) * width * item + rows * vocab * 4
    return Case(moved, 2 * rows * vocab * width, make)


def _finish(inputs: Inputs, kernel: str, name: str, rows: int, adapters: int, rank: int) -> Case:
    """A kernel that finishes a product."""
    cfg, item = inputs.config, inputs.dtype.itemsize
    _, parts = inputs.widths(name)

    def make(copy: int) -> Call:
        projected = inputs.projected(name, rows, adapters, rank)
        if kernel == "rope_kv_write":
            return _rope(inputs, projected, rows, copy)
        if kernel == "silu_mul":
            return lambda: ops.fused.silu_mul(projected, inputs.dtype)
        x, weight = inputs.random(rows, cfg.hidden_size), inputs.random(cfg.hidden_size)
        return lambda: ops.fused.add_norm(x, projected, weight, cfg.residual_multiplier)

    # One of the product's partial sums: how many there are is its choice.
    moved = rows * sum(parts) * 4
    # What is written, and read beside the product: q, k, v; half of gate and up; the stream twice and its norm.
    moved += (
        rows * item * {"rope_kv_write": sum(parts), "silu_mul": sum(parts) // 2, "add_norm": 3 * sum(parts)}[kernel]
    )
    low = rows * len(parts) * rank * 4 if adapters else 0
    moved += low + adapters * rank * sum(parts) * item
    flops = 2 * rows * rank * sum(parts) if adapters else 0
    return Case(moved, flops, make)


def _rope(inputs: Inputs, projected: Projected, rows: int, copy: int) -> Call:
    cfg = inputs.config
    cos, sin = (inputs.random(rows, cfg.head_dim) for _ in range(2))
    rotary, order = ops.fused.Rotary(cos, sin), inputs.ints(range(rows))
    cache = inputs.cache(copy, -(-rows // inputs.block_size))
    return lambda: ops.fused.rope_kv_write(
        projected, cache, order, order, rotary, cfg.num_heads, None, cfg.rms_norm_eps
    )


def _attention(inputs: Inputs, rows: int, before: int, num: int = 1, shared: bool = False) -> Case:
    """``num`` sequences of ``rows`` new rows after ``before`` keys."""
    cfg, item = inputs.config, inputs.dtype.itemsize
    plan, num_blocks = inputs.plan(rows, before, num, shared)
    work, tile = ops.TileTensors.of(plan, inputs.device), inputs.planner().tile(plan.tile_class)
    partials = ops.fused.Partials.empty(plan.num_parts, cfg.num_heads, cfg.head_dim, inputs.device)
    out = torch.zeros(num * rows, cfg.num_heads * cfg.head_dim, dtype=inputs.dtype, device=inputs.device)

    def make(copy: int) -> Call:
        q = inputs.random(num * rows, cfg.num_heads, cfg.head_dim)
        cache = inputs.cache(copy, num_blocks)
        size, scale, merge = inputs.block_size, cfg.attention_scale, plan.num_parts > 0
        return lambda: ops.fused.paged_attention(out, q, cache, work, partials, tile, size, scale, merge)

    keys = before + rows if num == 1 else (before + num * rows if shared else num * (before + rows))
    moved = 2 * keys * cfg.kv_size * item + 2 * num * rows * cfg.q_size * item
    pairs = num * (rows * before + rows * (rows + 1) // 2)
    return Case(moved, 4 * pairs * cfg.q_size, make)


def _lora_delta(inputs: Inputs, name: str, rows: int, rank: int) -> Case:
    width, parts = inputs.widths(name)
    item, segments = inputs.dtype.itemsize, [(0, rows, 0)]
    block_m = ops.lora_block_m(segments)
    tiles = torch.from_numpy(ops.lora_tiles(segments, block_m)).to(inputs.device)

    def make(copy: int) -> Call:
        x: Tensor = inputs.random(rows, width)
        out, table = inputs.random(rows, sum(parts)), inputs.table(name, 1, rank)
        return lambda: ops.fused.lora_delta(out, x, table, tiles, block_m, MAX_RANK)

    params = rank * (len(parts) * width + sum(parts))
    moved = item * (params + rows * width + 2 * rows * sum(parts))
    return Case(moved, 2 * rows * params, make)
