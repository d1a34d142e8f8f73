"""The adapters of one batch: which rows get whose delta."""

from collections.abc import Sequence

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
        by_slab: dict[AdapterSlab, list[tuple[int, int, int]]] = {}
        for start, end, adapter in segments:
            slab, slot = slots.device_form(adapter)
            by_slab.setdefault(slab, []).append((start, end, slot))
        self._windows = [
            (slab.stacks, ops.lora_windows(rows, slab.slot_bytes, slots.device)) for slab, rows in by_slab.items()
        ]

    def __call__(self, layer: int, projection: str, x: Tensor, out: Tensor) -> Tensor:
        """Add the deltas to ``out`` in place; see ``model.LoraApplier``."""
        assert self._generation == self._slots.generation, "adapters moved after the batch was built"
        for stacks, windows in self._windows:
            stack = stacks.get((layer, projection))
            if stack is not None:
                ops.lora_delta(out, x, stack, windows)
        return out
