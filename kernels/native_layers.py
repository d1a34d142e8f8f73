"""The decoder's layers on a CPU with AVX512-BF16: one call of the C kernels for all of them."""

import ctypes
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alorakit.kernels import native_types as c
from alorakit.kernels.attention_types import AttentionPlan
from alorakit.kernels.lora_stack import LoraStack
from alorakit.kernels.native_attention import NativePlan, address, int64_array
from alorakit.kernels.native_build import NativeBuildError as NativeBuildError
from alorakit.kernels.native_build import NativeError as NativeError
from alorakit.kernels.native_build import load_library, packs_as_expected, processor_flags

# Where the processor has matrix registers (AMX), which these kernels do not use, oneDNN multiplies more rows faster.
MAX_ROWS_BESIDE_AMX = 64
HEAD_DIMS = (64, 128)
# How oneDNN pads weights; and how many columns a register holds.
PANEL, PADDED_INPUTS, VEC = 64, 32, 16


@dataclass(frozen=True)
class NativeLinear:
    """A linear layer packed by ``ops.pack_weight``.

    Attributes:
        inputs: in_features.
        outputs: out_features.
        packed: Its packed weight.
        bias: [out_features] or None.
    """

    inputs: int
    outputs: int
    packed: Tensor
    bias: Tensor | None

    @property
    def columns(self) -> int:
        """``outputs``, rounded up to full registers; the weight is padded with zeros."""
        return -(-self.outputs // VEC) * VEC

    @cached_property
    def struct(self) -> c.Linear:
        """As the kernels take it; valid while this object is there."""
        panel = -(-self.inputs // PADDED_INPUTS) * PADDED_INPUTS * PANEL
        weight = int(torch.ops.mkldnn.data_ptr(self.packed))
        return c.Linear(self.inputs, self.columns, panel, weight, address(self.bias))


@dataclass(frozen=True)
class NativeLayer:
    """Weights of one layer; norms [hidden] and [head_dim], bfloat16. ``window``: the sliding window it attends by."""

    input_norm: Tensor
    post_norm: Tensor
    qk_norm: tuple[Tensor, Tensor] | None
    projections: Sequence[NativeLinear]
    window: int | None


@dataclass(frozen=True)
class NativeShape:
    """A decoder's numbers; see ``ModelConfig``, whose names these are."""

    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    attention_scale: float
    residual_multiplier: float
    rms_norm_eps: float

    def check(self) -> None:
        """Raise a NativeError for what the kernels cannot do."""
        if self.head_dim not in HEAD_DIMS:
            raise NativeError(f"head_dim={self.head_dim} is not one of {', '.join(map(str, HEAD_DIMS))}")
        if self.hidden_size % VEC or self.intermediate_size % VEC:
            sizes = f"hidden_size={self.hidden_size}, intermediate_size={self.intermediate_size}"
            raise NativeError(f"{sizes} are not multiples of {VEC}")


@dataclass(frozen=True)
class NativeAdapters:
    """Adapters of a batch.

    Attributes:
        slabs: For each slab of adapters its stacks, by (layer, fused projection).
        segments: (first row, one past last row, index of the slab, slot).
        version: Equal for two batches only if the slabs are the same, and where they were.
    """

    slabs: Sequence[Mapping[tuple[int, str], LoraStack]]
    segments: Sequence[tuple[int, int, int, int]]
    version: object


class NativeLayers:
    """The layers of one decoder. Not thread-safe: it owns what its kernels work in.

    Attributes:
        max_rows: Rows of a batch up to which this is the fastest way on this processor.
        windows: The layers' distinct sliding windows.
    """

    def __init__(self, folder: Path, shape: NativeShape, layers: Sequence[NativeLayer], final_norm: Tensor) -> None:
        """Compile or load the kernels.

        Args:
            folder: Where compiled kernels are kept.
            shape: The decoder's numbers.
            layers: Its layers.
            final_norm: bfloat16 [hidden].

        Raises:
            NativeError: They cannot be had here, or cannot do this decoder.
        """
        shape.check()
        self._library = load_library(folder)
        if not packs_as_expected():
            raise NativeError("oneDNN packs weights in another layout here")
        self.max_rows = MAX_ROWS_BESIDE_AMX if "amx_bf16" in processor_flags() else sys.maxsize
        self._shape, self._kept = shape, (tuple(layers), final_norm)
        self.windows = tuple(dict.fromkeys(layer.window for layer in layers))
        self._layers = (c.Layer * len(layers))(*(_layer(layer, self.windows) for layer in layers))
        self._scratch = torch.empty(0, dtype=torch.uint8)
        self._loras: tuple[object, Any, object] = (None, None, None)

    def __call__(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        cache: Tensor,
        slots: Tensor,
        plans: Mapping[int | None, AttentionPlan],
        adapters: NativeAdapters | None,
    ) -> Tensor:
        """Run all layers and the final norm.

        Args:
            x: The layers' input, bfloat16 [rows, hidden], contiguous; modified in place.
            cos: [rows, 1, head_dim], as ``ops.rope`` has it.
            sin: Likewise.
            cache: [layers, 2, num_kv_heads, num_slots, head_dim], modified in place; keys, then values.
            slots: int64 [rows]; where the rows' keys and values go.
            plans: For each window, who attends to what; without ``blocks``.
            adapters: Whose rows get deltas.

        Returns:
            ``x``: hidden states after the final norm.
        """
        shape, rows = self._shape, x.shape[0]
        heads = c.Heads(shape.num_heads, shape.num_kv_heads, shape.head_dim, cache.shape[3], shape.attention_scale)
        model = c.Model(
            len(self._layers), shape.hidden_size, shape.intermediate_size, heads, shape.rms_norm_eps,
            shape.residual_multiplier, ctypes.addressof(self._layers), self._kept[1].data_ptr(),
        )  # fmt: skip
        attention = [NativePlan(plans[window]) for window in self.windows]
        structs = (c.Attention * len(attention))(*(one.struct for one in attention))
        step = c.Step(rows, x.data_ptr(), cos.data_ptr(), sin.data_ptr(), cache.data_ptr(), slots.data_ptr())
        step.plans = ctypes.addressof(structs)
        if adapters is not None:
            adapted = (ctypes.c_int64 * (2 * rows))(*[-1] * (2 * rows))
            for start, end, slab, slot in adapters.segments:
                adapted[2 * start : 2 * end] = [slab, slot] * (end - start)
            step.adapted = ctypes.addressof(adapted)
            step.loras = ctypes.addressof(self._lora_structs(adapters))
        threads = torch.get_num_threads()
        counts = (ctypes.c_int64(len(structs)), ctypes.c_int64(threads))
        size = int(self._library.scratch_size(ctypes.byref(model), ctypes.byref(step), *counts))
        if size > self._scratch.numel():
            self._scratch = torch.empty(size, dtype=torch.uint8)
        step.scratch = self._scratch.data_ptr()
        self._library.run_layers(ctypes.byref(model), ctypes.byref(step), *counts)
        return x

    def linear(self, layer: NativeLinear, x: Tensor) -> Tensor:
        """``x W^T + bias``, bfloat16 [rows, inputs] -> [rows, outputs]; with a bias, outputs must fill registers."""
        assert layer.bias is None or layer.columns == layer.outputs
        x, out = x.contiguous(), x.new_empty(x.shape[0], layer.columns)
        rows, threads = ctypes.c_int64(x.shape[0]), ctypes.c_int64(torch.get_num_threads())
        addresses = (ctypes.c_void_p(x.data_ptr()), ctypes.c_void_p(out.data_ptr()))
        self._library.run_linear(ctypes.byref(layer.struct), rows, *addresses, threads)
        return out[:, : layer.outputs]

    def _lora_structs(self, adapters: NativeAdapters) -> Any:
        """[slabs, layers, projections], made anew only when adapters come, go or move."""
        version, structs, _ = self._loras
        if version is None or version != adapters.version:
            per_slab = len(self._layers) * len(c.PROJECTIONS)
            structs = (c.Lora * (len(adapters.slabs) * per_slab))()
            kept = []  # not the stacks: they are there as long as a batch is of this version, and may go after
            for index, stacks in enumerate(adapters.slabs):
                for (layer, projection), stack in stacks.items():
                    at = index * per_slab + layer * len(c.PROJECTIONS) + c.PROJECTIONS.index(projection)
                    structs[at], arrays = _lora(stack)
                    kept.append(arrays)
            self._loras = adapters.version, structs, kept
        return structs


def _layer(layer: NativeLayer, windows: Sequence[int | None]) -> c.Layer:
    q_norm, k_norm = layer.qk_norm or (None, None)
    return c.Layer(
        address(layer.input_norm), address(layer.post_norm), address(q_norm), address(k_norm),
        (c.Linear * len(c.PROJECTIONS))(*(linear.struct for linear in layer.projections)),
        windows.index(layer.window),
    )  # fmt: skip


def _lora(stack: LoraStack) -> tuple[c.Lora, tuple[Any, Any]]:
    """A stack, and the arrays that it points to."""
    _, num_tiles, rank, tile = stack.b.shape
    parts = [part for part, (first, last) in enumerate(stack.part_tiles) for _ in range(first, last)]
    columns = [start + (t - first) * tile for first, last, start in stack.runs for t in range(first, last)]
    arrays = int64_array(parts), int64_array(columns)
    sizes = (stack.a.shape[1], rank, len(stack.part_tiles), num_tiles, tile)
    return c.Lora(*sizes, address(stack.a), address(stack.b), *map(ctypes.addressof, arrays)), arrays
