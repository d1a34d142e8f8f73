"""Device memory of adapters of one shape: their weights stacked, so that one batched product serves several of them."""

import torch

from alorakit.engine.adapters import FUSED, Adapter, linear_shapes
from alorakit.engine.model_config import ModelConfig
from alorakit.kernels import ops
from alorakit.kernels.ops import LoraStack

# (layer, target, rank rounded up) of every adapted linear layer: adapters that agree in it share a slab.
AdapterShape = frozenset[tuple[int, str, int]]
_SMALLEST_RANK = 8


def shape_of(adapter: Adapter) -> AdapterShape:
    """An adapter's shape, its ranks rounded up to powers of two so that like adapters meet in one slab."""
    return frozenset(
        (layer, target, max(_SMALLEST_RANK, 1 << (pair.rank - 1).bit_length()))
        for (layer, target), pair in adapter.weights.pairs.items()
    )


class AdapterSlab:
    """Stacked device weights of adapters of one shape, a slot for each.

    Grows and shrinks by factors of two, so at most three quarters of it lie idle; adapters then change their slots.

    Attributes:
        stacks: (layer, fused projection) -> the weights as ``ops.lora_delta`` wants them.
        digests: Digest of the adapter in each slot, or None.
        slot_bytes: Mean size of a slot's weights for one fused projection.
    """

    def __init__(
        self, shape: AdapterShape, config: ModelConfig, device: torch.device, dtype: torch.dtype, max_slots: int
    ) -> None:
        """Room for one adapter, later for ``max_slots`` at most; ``dtype`` is the model's compute dtype."""
        self._max_slots = max_slots
        self.digests: list[str | None] = [None]
        self.stacks: dict[tuple[int, str], LoraStack] = {}
        self._targets: dict[tuple[int, str], list[str]] = {}
        dtypes = ops.lora_dtypes(device, dtype, config.hidden_size)
        shapes, ranks = linear_shapes(config), {(layer, target): rank for layer, target, rank in shape}
        for layer in sorted({layer for layer, _, _ in shape}):
            for projection, parts in FUSED.items():
                if targets := [target for target in parts if (layer, target) in ranks]:
                    widths, adapted = [shapes[part][1] for part in parts], [parts.index(target) for target in targets]
                    rank = max(ranks[layer, target] for target in targets)
                    stack = LoraStack.zeros(1, shapes[parts[0]][0], widths, adapted, rank, dtypes, device)
                    self.stacks[layer, projection], self._targets[layer, projection] = stack, targets
        self.slot_bytes = sum(stack.slot_bytes for stack in self.stacks.values()) // len(self.stacks)

    @property
    def num_adapters(self) -> int:
        """Slots in use."""
        return len(self.digests) - self.digests.count(None)

    def slot(self, digest: str) -> int:
        """Where an adapter is now."""
        return self.digests.index(digest)

    def add(self, adapter: Adapter) -> None:
        """Copy an adapter's weights, LoRA scaling included, to a free slot."""
        if None not in self.digests:
            self._resize(min(2 * len(self.digests), self._max_slots))
        slot = self.digests.index(None)
        for (layer, projection), stack in self.stacks.items():
            for part, target in enumerate(self._targets[layer, projection]):
                pair = adapter.weights.pairs[layer, target]
                stack.write(slot, part, pair.a.float(), pair.scaled_b())
        self.digests[slot] = adapter.info.digest

    def remove(self, digest: str) -> None:
        """Free an adapter's slot; once three quarters of the slab lie idle, the others move together and it shrinks."""
        self.digests[self.slot(digest)] = None
        if 0 < 4 * self.num_adapters <= len(self.digests):
            self._compact()
            self._resize(len(self.digests) // 2)

    def _compact(self) -> None:
        used = [slot for slot, digest in enumerate(self.digests) if digest is not None]
        for dest, source in enumerate(used):
            if dest != source:
                for stack in self.stacks.values():
                    stack.move(source, dest)
        self.digests = [self.digests[slot] for slot in used] + [None] * (len(self.digests) - len(used))

    def _resize(self, num_slots: int) -> None:
        """Resize stack after stack; no adapter changes its slot, so running out of memory half-way harms nothing."""
        for key, stack in self.stacks.items():
            self.stacks[key] = stack.resized(num_slots)
        self.digests = [*self.digests, *[None] * num_slots][:num_slots]
