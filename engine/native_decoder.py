"""The decoder's forward pass on a CPU with AVX512-BF16, in C.

A decode step is bound by memory, and in torch by what lies between products: hundreds of small operations, and
attention that copies keys before it multiplies them. The C kernels do a step in one call and read everything once.
"""

import logging
from dataclasses import fields

from torch import Tensor

from alorakit.engine.attention import AttentionInput, KVCache
from alorakit.engine.batched_adapters import BatchedAdapters
from alorakit.engine.layers import Linear
from alorakit.engine.model import PROJECTIONS, Decoder, DecoderLayer
from alorakit.engine.pretrained import cache_dir
from alorakit.kernels.ops import native

log = logging.getLogger("alorakit")


class NativeDecoder:
    """A decoder whose layers and output layer run in C; the embedding is the model's."""

    def __init__(self, model: Decoder) -> None:
        """Compile or load the kernels.

        Args:
            model: On a CPU, in bfloat16, its weights packed.

        Raises:
            NativeError: They cannot be had here, or cannot do this model.
        """
        config = model.config
        shape = native.NativeShape(**{field.name: getattr(config, field.name) for field in fields(native.NativeShape)})
        layers = [_layer(layer, config.sliding_windows[index]) for index, layer in enumerate(model.layers)]
        self._embed, self._rotary = model.embed, model.rotary
        self._head = _linear(model.lm_head)
        self._run = native.NativeLayers(cache_dir() / "native", shape, layers, model.final_norm)

    @classmethod
    def make(cls, model: Decoder) -> "NativeDecoder | None":
        """A native decoder, or None and a log line where it cannot be had: a warning if that could be mended."""
        try:
            return cls(model)
        except native.NativeBuildError as exc:
            log.warning("the decoder runs in torch, which is slower, and not in C: %.300s", exc)
            return None
        except native.NativeError as exc:
            log.info("the decoder runs in torch, not in C: %.300s", exc)
            return None

    def takes(self, num_rows: int) -> bool:
        """Whether a batch of so many rows is faster here than in torch."""
        return num_rows <= self._run.max_rows

    def head(self, hidden: Tensor) -> Tensor:
        """The output layer: [rows, hidden_size] -> [rows, vocab_size], bfloat16."""
        return self._run.linear(self._head, hidden)

    def forward(
        self, token_ids: Tensor, positions: Tensor, cache: KVCache, given: AttentionInput, lora: BatchedAdapters | None
    ) -> Tensor:
        """As ``Decoder.forward``, given what attention and adapters are made of; ``given`` has no pairs of blocks."""
        cos, sin = self._rotary.at(positions)
        adapters = None if lora is None else lora.native
        return self._run(self._embed(token_ids), cos, sin, cache.data, given.slots, given.plans, adapters)


def _layer(layer: DecoderLayer, window: int | None) -> native.NativeLayer:
    projections = [_linear(getattr(layer, name)) for name in PROJECTIONS]
    return native.NativeLayer(layer.input_norm, layer.post_norm, layer.qk_norm, projections, window)


def _linear(linear: Linear) -> native.NativeLinear:
    outputs, inputs = linear.weight.shape
    return native.NativeLinear(inputs, outputs, linear.weight, linear.bias)
