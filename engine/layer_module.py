"""A decoder's layers as an ``nn.Module``: what ``torch.export`` takes."""

from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from alorakit.engine.compiled_ops import AttendOp, LoraOp
from alorakit.engine.layers import Linear
from alorakit.engine.model import Decoder, DecoderLayer


class LayerModule(nn.Module):
    """``Decoder.run_layers``, its weights (not packed) registered as buffers, which the compiler may lay out anew."""

    def __init__(self, decoder: Decoder, adapted: bool) -> None:
        """The layers of ``decoder``; ``adapted``: with the places where adapters' deltas are added."""
        super().__init__()
        self._decoder, self._adapted = decoder, adapted
        self._num_buffers = 0
        self._layers = [
            {field.name: self._register(getattr(layer, field.name)) for field in fields(layer)}
            for layer in decoder.layers
        ]
        self._final_norm = self._register(decoder.final_norm)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, number: Tensor) -> Tensor:
        """See ``Decoder.run_layers``; ``number`` is that of the :class:`~alorakit.engine.compiled_ops.Step`."""
        layers = [DecoderLayer(**{name: self._look_up(what) for name, what in layer.items()}) for layer in self._layers]
        decoder = replace(self._decoder, layers=layers, final_norm=self._look_up(self._final_norm))
        return decoder.run_layers(x, cos, sin, AttendOp(number), LoraOp(number) if self._adapted else None)

    def _register(self, part: Any) -> Any:
        """``part`` of a layer, each of its tensors replaced by the name of its buffer."""
        if isinstance(part, torch.Tensor):
            name = f"weight_{self._num_buffers}"
            self._num_buffers += 1
            self.register_buffer(name, part)
            return name
        if isinstance(part, Linear):
            return Linear, self._register(part.weight), self._register(part.bias)
        return tuple(self._register(each) for each in part) if isinstance(part, tuple) else part

    def _look_up(self, named: Any) -> Any:
        """The part that :meth:`_register` made ``named`` of."""
        if isinstance(named, str):
            return getattr(self, named)
        if isinstance(named, tuple):
            kind, *rest = named
            return Linear(*map(self._look_up, rest)) if kind is Linear else tuple(map(self._look_up, named))
        return named
