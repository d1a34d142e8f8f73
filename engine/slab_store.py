"""Adapters' weights for the torch path: stacked with those of the same shape."""

from collections.abc import Iterable

import torch

from alorakit.engine.adapter_slab import AdapterShape, AdapterSlab, shape_of
from alorakit.engine.adapters import Adapter
from alorakit.engine.model_config import ModelConfig


class SlabStore:
    """Owns the slabs: one for each shape that is there."""

    def __init__(self, config: ModelConfig, device: torch.device, dtype: torch.dtype, max_slots: int) -> None:
        """No adapter yet; room for ``max_slots``."""
        self._config, self._device, self._dtype, self._max_slots = config, device, dtype, max_slots
        self._slabs: dict[AdapterShape, AdapterSlab] = {}
        self._shapes: dict[str, AdapterShape] = {}

    def add(self, adapter: Adapter) -> None:
        """Copy an adapter's weights to the device; nothing is changed if that fails."""
        shape = shape_of(adapter)
        slab = self._slabs.get(shape) or AdapterSlab(shape, self._config, self._device, self._dtype, self._max_slots)
        slab.add(adapter)
        self._slabs[shape] = slab
        self._shapes[adapter.info.digest] = shape

    def remove(self, digest: str) -> None:
        """Let go of an adapter's weights."""
        shape = self._shapes.pop(digest)
        self._slabs[shape].remove(digest)
        if self._slabs[shape].num_adapters == 0:
            del self._slabs[shape]

    def find(self, digest: str) -> tuple[AdapterSlab, int]:
        """(slab, slot) of an adapter; valid until another comes or goes."""
        slab = self._slabs[self._shapes[digest]]
        return slab, slab.slot(digest)

    def clear(self) -> None:
        """Let go of all device memory."""
        self._slabs.clear()
        self._shapes.clear()

    def check_integrity(self, digests: Iterable[str]) -> None:
        """Prove that exactly these adapters are there (AssertionError if not)."""
        held = sorted(d for slab in self._slabs.values() for d in slab.digests if d is not None)
        assert held == sorted(digests) == sorted(self._shapes), "slabs and residents disagree"
        for slab in self._slabs.values():
            assert 0 < slab.num_adapters <= len(slab.digests) < max(2, 4 * slab.num_adapters)
            assert all(len(stack.a) == len(stack.b) >= len(slab.digests) for stack in slab.stacks.values())
        for digest, shape in self._shapes.items():
            assert digest in self._slabs[shape].digests
