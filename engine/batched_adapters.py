"""The adapters of one batch: which rows get whose delta."""

from collections.abc import Sequence
from functools import cached_property

from torch import Tensor

from alorakit.engine.adapter_slab import AdapterSlab
from alorakit.engine.adapter_slots import AdapterSlots
from alorakit.engine.adapters import Adapter
from alorakit.kernels import ops


class BatchedAdapters:
    """Adds adapters' deltas to a batch's rows (the decoder's ``LoraApplier``); valid for the step it is built for."""

    def __init__(self, slots: AdapterSlots, segments: Sequence[tuple[int, int, Adapter]]) -> None:
        """Look up where the adapters are.

        Args:
            slots: Where they are resident.
            segments: (first row, one past last row, adapter); an adapter may have several. Other rows get no delta.
        """
        self._slots, self._generation = slots, slots.generation
        self._by_slab: dict[AdapterSlab, list[tuple[int, int, int]]] = {}
        for start, end, adapter in segments:
            slab, slot = slots.device_form(adapter)
            self._by_slab.setdefault(slab, []).append((start, end, slot))

    def __call__(self, layer: int, projection: str, x: Tensor, out: Tensor) -> Tensor:
        """Add the deltas to ``out`` in place; see ``model.LoraApplier``."""
        self._check()
        for slab, windows in self._windows:
            stack = slab.stacks.get((layer, projection))
            if stack is not None:
                ops.lora_delta(out, x, stack, windows)
        return out

    @property
    def native(self) -> ops.native.NativeAdapters:
        """As the kernels in C take them."""
        self._check()
        slabs = list(self._by_slab)
        segments = [
            (start, end, index, slot) for index, slab in enumerate(slabs) for start, end, slot in self._by_slab[slab]
        ]
        version = (self._generation, *map(id, slabs))
        return ops.native.NativeAdapters([slab.stacks for slab in slabs], segments, version)

    @cached_property
    def _windows(self) -> list[tuple[AdapterSlab, tuple[ops.LoraWindow, ...]]]:
        return [
            (slab, ops.lora_windows(rows, slab.slot_bytes, self._slots.device)) for slab, rows in self._by_slab.items()
        ]

    def _check(self) -> None:
        assert self._generation == self._slots.generation, "adapters moved after the batch was built"
