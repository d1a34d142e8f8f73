"""Kernels for the test of ahead-of-time compilation: one that fits, and one for every way not to."""

import triton
import triton.language as tl


@triton.jit
def add_kernel(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x_ptr + at, tl.load(x_ptr + at, mask=at < n) + tl.load(y_ptr + at, mask=at < n), mask=at < n)


@triton.jit
def product_kernel(x_ptr, y_ptr, out_ptr, steps, SIZE: tl.constexpr, INNER: tl.constexpr):
    rows, inner = tl.arange(0, SIZE), tl.arange(0, INNER)
    total = tl.zeros([SIZE, SIZE], tl.float32)
    for step in range(steps):
        x = tl.load(x_ptr + rows[:, None] * INNER + inner[None, :] + step * SIZE * INNER)
        y = tl.load(y_ptr + inner[:, None] * SIZE + rows[None, :] + step * SIZE * INNER)
        total = tl.dot(x, y, total)
    tl.store(out_ptr + rows[:, None] * SIZE + rows[None, :], total)


def aot(arch):
    types = {"x_ptr": "*bf16", "y_ptr": "*bf16"}
    yield "add", add_kernel, types | {"n": "i32:16"}, {"BLOCK": 1024}, 4, 1, True
    product = {**types, "out_ptr": "*fp32", "steps": "i32"}
    for name, size, inner, warps, stages in [
        ("product", 64, 32, 4, 3),
        ("spills", 256, 32, 4, 1),
        ("shared", 128, 128, 8, 5),
    ]:
        constexprs = {"SIZE": size, "INNER": inner}
        yield f"{name}-{size}", product_kernel, product, constexprs, warps, stages, name != "product"
    yield "broken", add_kernel, types, {"BLOCK": 1024}, 4, 1, False
