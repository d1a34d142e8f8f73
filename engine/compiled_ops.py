"""What a compiled decoder leaves to torch: linear layers, adapters' deltas and attention, as custom ops.

Linear layers run at the memory's speed as oneDNN packed them, and attention differs from step to step, so a compiled
graph holds neither. Its ops are given the number of a :class:`Step` and look them up there; the compiler knows no more
of them than the shape of what they return.
"""

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from alorakit.engine.layers import Linear
from alorakit.engine.model import Attention, LoraApplier


@dataclass
class Step:
    """What the ops of one compiled decoder work with.

    Attributes:
        linears: The decoder's linear layers, by layer and projection.
        attention: See ``Decoder.forward``; set before the graph runs, and cleared after.
        lora: Likewise.
    """

    linears: dict[tuple[int, str], Linear]
    attention: Attention | None = None
    lora: LoraApplier | None = None


_steps: dict[int, Step] = {}
_numbers = itertools.count()


def open_step(linears: dict[tuple[int, str], Linear]) -> tuple[Step, Tensor]:
    """A step for one decoder to set, and its number as the tensor, int64 [1], that the graph is given."""
    number = next(_numbers)
    _steps[number] = step = Step(linears)
    return step, torch.tensor([number])


def close_step(number: Tensor) -> None:
    """Forget a step of :func:`open_step`."""
    _steps.pop(int(number), None)


def _linear(number: Tensor, layer: int, projection: str, out_features: int, x: Tensor) -> Tensor:
    """A linear layer and the deltas of the rows that are adapted; contiguous, which the graph relies on."""
    step = _steps[int(number)]
    out = step.linears[layer, projection](x)
    return (out if step.lora is None else step.lora(layer, projection, x, out)).contiguous()


def _linear_shape(number: Tensor, layer: int, projection: str, out_features: int, x: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], out_features)


def _attend(number: Tensor, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """See ``model.Attention``; contiguous, too, and zeros while a graph is only tried out."""
    attention = _steps[int(number)].attention
    if attention is None:
        return _attend_shape(number, layer, q, k, v).zero_()
    return attention(layer, q, k, v).contiguous()


def _attend_shape(number: Tensor, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return q.new_empty(q.shape[0], q.shape[1] * q.shape[2])


_library = torch.library.Library("alorakit", "FRAGMENT")
_library.define("linear(Tensor number, int layer, str projection, int out_features, Tensor x) -> Tensor")
_library.define("attend(Tensor number, int layer, Tensor q, Tensor k, Tensor v) -> Tensor")
# Straight to the dispatcher: torch.library.custom_op wraps each call in some 10 us of Python.
_library.impl("linear", _linear, "CPU")
_library.impl("attend", _attend, "CPU")
torch.library.register_fake("alorakit::linear", _linear_shape, lib=_library)
torch.library.register_fake("alorakit::attend", _attend_shape, lib=_library)


class LinearOp(Linear):
    """A linear layer while the decoder is traced."""

    def __init__(self, number: Tensor, layer: int, projection: str, out_features: int) -> None:
        """The layer ``projection`` of decoder layer ``layer``."""
        self._args = (number, layer, projection, out_features)

    def __call__(self, x: Tensor) -> Tensor:
        """[rows, in_features] -> [rows, out_features]."""
        out: Tensor = torch.ops.alorakit.linear(*self._args, x)
        return out


@dataclass(frozen=True)
class AttendOp:
    """The decoder's ``Attention`` while it is traced."""

    number: Tensor

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See ``model.Attention``."""
        out: Tensor = torch.ops.alorakit.attend(self.number, layer, q, k, v)
        return out
