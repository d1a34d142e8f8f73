"""The low-rank weights under training, added to the decoder's fused projections."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from alorakit.engine.adapters import FUSED, linear_shapes, tensor_name
from alorakit.engine.model_config import ModelConfig
from alorakit.kernels import ops


@dataclass(frozen=True)
class _Pair:
    """Low-rank weights of one fused projection.

    Attributes:
        a: [num_targets * rank, in_features]; the targets' A one below the other.
        b: For each part of the projection, in order, its B [out_features, rank], or None if it is not a target.
        names: Names of the parts, in the same order.
        widths: Their out_features.
    """

    a: Tensor
    b: tuple[Tensor | None, ...]
    names: tuple[str, ...]
    widths: tuple[int, ...]


class LoraWeights:
    """Trainable A and B of every layer and target: the decoder's ``LoraApplier`` while training.

    Every row that enters is adapted, for a suffix starts at the activation point. The low-rank path is float32
    whatever the base's dtype; the sum is rounded once.

    Attributes:
        rank: Rank of each pair.
        scale: Factor of the delta, alpha / rank.
        dropout: Probability of dropping an input.
        training: Whether dropout is on.
    """

    def __init__(
        self, config: ModelConfig, targets: Sequence[str], rank: int, alpha: float, dropout: float, device: torch.device
    ) -> None:
        """Initialize as PEFT does: A by ``kaiming_uniform_(a=sqrt(5))`` from torch's generator, B zero."""
        self.rank, self.scale, self.dropout, self.training = rank, alpha / rank, dropout, False
        self._pairs: dict[tuple[int, str], _Pair] = {}
        shapes = linear_shapes(config)
        for layer in range(config.num_layers):
            for projection, parts in FUSED.items():
                chosen = [name for name in parts if name in targets]
                if not chosen:
                    continue
                # The bound depends on in_features alone, so one draw serves all targets.
                a = torch.empty(len(chosen) * rank, shapes[parts[0]][0])
                torch.nn.init.kaiming_uniform_(a, a=math.sqrt(5))
                b = tuple(
                    torch.zeros(shapes[name][1], rank, device=device, requires_grad=True) if name in chosen else None
                    for name in parts
                )
                leaf = a.to(device).requires_grad_()
                self._pairs[layer, projection] = _Pair(leaf, b, parts, tuple(shapes[name][1] for name in parts))

    def __call__(self, layer: int, projection: str, x: Tensor, out: Tensor) -> Tensor:
        """``out + scale * B A dropout(x)``; x [rows, in_features], out [rows, out_features], dtype of ``out``."""
        pair = self._pairs.get((layer, projection))
        if pair is None:
            return out
        # Dropout in float32, as the low-rank path; without it, no copy is made.
        x = F.dropout(x.float(), self.dropout) if self.training and self.dropout else x
        return ops.lora_linear(out, x, pair.a, pair.b, pair.widths, self.scale)

    def parameters(self) -> list[Tensor]:
        """Every trainable tensor, float32."""
        return [t for pair in self._pairs.values() for t in (pair.a, *pair.b) if t is not None]

    def named_tensors(self) -> dict[str, Tensor]:
        """PEFT's name of each A [rank, in_features] and B [out_features, rank]: views of the trainable tensors."""
        return self._named({id(t): t for t in self.parameters()})

    def named_gradients(self) -> dict[str, Tensor]:
        """Gradient of each tensor of :meth:`named_tensors`, after a backward pass."""
        return self._named({id(t): t.grad for t in self.parameters() if t.grad is not None})

    def snapshot(self) -> dict[str, Tensor]:
        """A copy of :meth:`named_tensors` on the CPU, contiguous, ready to be written to a file."""
        return {name: t.detach().to("cpu", copy=True).contiguous() for name, t in self.named_tensors().items()}

    def _named(self, values: dict[int, Tensor]) -> dict[str, Tensor]:
        """What ``values`` holds for each trainable tensor (by id), cut into targets under PEFT's names."""
        named = {}
        for (layer, _), pair in self._pairs.items():
            low = iter(values[id(pair.a)].split(self.rank))
            for name, b in zip(pair.names, pair.b, strict=True):
                if b is not None:
                    named[tensor_name(layer, name, "A")] = next(low)
                    named[tensor_name(layer, name, "B")] = values[id(b)]
        return named
