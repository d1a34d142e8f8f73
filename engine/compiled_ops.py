"""What a compiled decoder leaves to torch: attention and adapters' deltas, as custom ops.

A compiled graph is made once, and where keys and values go differs from step to step. So the ops are given the number
of a :class:`Step` and look it up. The compiler knows no more of them than the shape of what they return.
"""

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from alorakit.engine.model import Attention, LoraApplier


@dataclass
class Step:
    """What the ops of one compiled decoder work with; set before a graph runs, cleared after.

    Attributes:
        num_rows: Rows that count; those that fill the graph's bucket up come after them, and are not looked at.
        attention: See ``Decoder.forward``; None when a graph is only tried out.
        lora: See ``Decoder.forward``.
    """

    num_rows: int = 0
    attention: Attention | None = None
    lora: LoraApplier | None = None


_steps: dict[int, Step] = {}
_numbers = itertools.count()


def open_step() -> tuple[Step, Tensor]:
    """A step for one decoder to set, and its number as the tensor, int64 [1], that the graphs are given."""
    number = next(_numbers)
    _steps[number] = step = Step()
    return step, torch.tensor([number])


def close_step(number: Tensor) -> None:
    """Forget a step of :func:`open_step`."""
    _steps.pop(int(number), None)


def _attend(number: Tensor, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """``Attention`` on the rows that count; zeros for the others, whose keys and values go nowhere."""
    step, rows = _steps[int(number)], q.shape[0]
    if step.attention is None:
        return _attend_shape(number, layer, q, k, v).zero_()
    num = step.num_rows
    if num == rows:
        return step.attention(layer, q, k, v)
    out = _attend_shape(number, layer, q, k, v)
    out[:num] = step.attention(layer, q[:num], k[:num], v[:num])
    out[num:] = 0
    return out


def _attend_shape(number: Tensor, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return q.new_empty(q.shape[0], q.shape[1] * q.shape[2])


def _add_lora(number: Tensor, layer: int, projection: str, x: Tensor, out: Tensor) -> None:
    """``LoraApplier``, in place, on the rows that count."""
    step = _steps[int(number)]
    if step.lora is not None:
        step.lora(layer, projection, x[: step.num_rows], out[: step.num_rows])


_library = torch.library.Library("alorakit", "FRAGMENT")
_library.define("attend(Tensor number, int layer, Tensor q, Tensor k, Tensor v) -> Tensor")
_library.define("add_lora(Tensor number, int layer, str projection, Tensor x, Tensor(a!) out) -> ()")
# Straight to the dispatcher: torch.library.custom_op wraps each call in 10 us of Python.
_library.impl("attend", _attend, "CPU")
_library.impl("add_lora", _add_lora, "CPU")
torch.library.register_fake("alorakit::attend", _attend_shape, lib=_library)
torch.library.register_fake("alorakit::add_lora", lambda *args: None, lib=_library)


@dataclass(frozen=True)
class AttendOp:
    """The decoder's ``Attention`` while it is traced."""

    number: Tensor

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See ``model.Attention``."""
        out: Tensor = torch.ops.alorakit.attend(self.number, layer, q, k, v)
        return out


@dataclass(frozen=True)
class LoraOp:
    """The decoder's ``LoraApplier`` while it is traced."""

    number: Tensor

    def __call__(self, layer: int, projection: str, x: Tensor, out: Tensor) -> Tensor:
        """See ``model.LoraApplier``."""
        torch.ops.alorakit.add_lora(self.number, layer, projection, x, out)
        return out
