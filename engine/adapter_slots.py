"""Which adapters are on the device: a bounded number, the least recently used one swapped out for the next."""

from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from alorakit.engine.adapter_slab import AdapterShape, AdapterSlab, shape_of
from alorakit.engine.adapters import Adapter
from alorakit.engine.model_config import ModelConfig


@dataclass(eq=False)
class _Resident:
    """An adapter on the device: its slab, and how many running sequences hold it there."""

    shape: AdapterShape
    slab: AdapterSlab
    pins: int = 0


class AdapterSlots:
    """Owns the adapters' device memory. Keyed by digest, never by name; not thread-safe.

    Attributes:
        max_adapters: Most adapters on the device at once.
        num_loads: Adapters brought to the device so far.
        num_evictions: Adapters swapped out for others so far.
        generation: Changes whenever adapters come, go or move; what was looked up before is then stale.
    """

    def __init__(self, config: ModelConfig, device: torch.device, dtype: torch.dtype, max_adapters: int) -> None:
        """No adapter yet; ``dtype`` is the model's compute dtype."""
        self.max_adapters = max_adapters
        self.num_loads = self.num_evictions = self.generation = 0
        self._config, self._dtype, self.device = config, dtype, device
        self._residents: OrderedDict[str, _Resident] = OrderedDict()  # least recently used first
        self._slabs: dict[AdapterShape, AdapterSlab] = {}

    @property
    def num_resident(self) -> int:
        """Adapters on the device."""
        return len(self._residents)

    @property
    def num_pinned(self) -> int:
        """Adapters that a running sequence holds on the device."""
        return sum(resident.pins > 0 for resident in self._residents.values())

    def is_resident(self, adapter: Adapter) -> bool:
        """Whether an adapter's weights are on the device."""
        return adapter.info.digest in self._residents

    def acquire(self, adapter: Adapter) -> bool:
        """Pin an adapter for one more running sequence, and bring it to the device if it is not there.

        Returns:
            False, with nothing changed, if every slot is pinned by other adapters.
        """
        digest = adapter.info.digest
        if digest not in self._residents:
            if len(self._residents) >= self.max_adapters:
                victim = next((d for d, resident in self._residents.items() if resident.pins == 0), None)
                if victim is None:
                    return False
                self._evict(victim)
            self._load(adapter)
        self._residents[digest].pins += 1
        self._residents.move_to_end(digest)
        return True

    def release(self, adapter: Adapter) -> None:
        """Take back one pin; the adapter stays on the device until its slot is needed."""
        resident = self._resident(adapter)
        assert resident.pins > 0, f"adapter {adapter.info.name!r} is not pinned"
        resident.pins -= 1
        self._residents.move_to_end(adapter.info.digest)

    def device_form(self, adapter: Adapter) -> tuple[AdapterSlab, int]:
        """(slab, slot) of a resident adapter; valid until ``generation`` changes."""
        slab = self._resident(adapter).slab
        return slab, slab.slot(adapter.info.digest)

    def clear(self) -> None:
        """Let go of all device memory."""
        self._residents.clear()
        self._slabs.clear()
        self.generation += 1

    def check_integrity(self, holders: Iterable[Adapter]) -> None:
        """Prove that residents and slabs agree and that no limit is exceeded (AssertionError if not).

        Args:
            holders: The adapter of every sequence that holds one, each as often as it is held.
        """
        assert len(self._residents) <= self.max_adapters
        pins = {digest: resident.pins for digest, resident in self._residents.items() if resident.pins}
        assert pins == Counter(adapter.info.digest for adapter in holders), "pins and holders disagree"
        held = sorted(d for slab in self._slabs.values() for d in slab.digests if d is not None)
        assert held == sorted(self._residents), "slabs and residents disagree"
        for shape, slab in self._slabs.items():
            assert 0 < slab.num_adapters <= len(slab.digests) < max(2, 4 * slab.num_adapters)
            assert all(len(stack.a) == len(stack.b) >= len(slab.digests) for stack in slab.stacks.values())
            assert all(r.slab is slab for d, r in self._residents.items() if d in slab.digests and r.shape == shape)
        assert self.num_loads >= self.num_evictions + len(self._residents)

    def _resident(self, adapter: Adapter) -> _Resident:
        resident = self._residents.get(adapter.info.digest)
        assert resident is not None, f"adapter {adapter.info.name!r} is not on the device"
        return resident

    def _load(self, adapter: Adapter) -> None:
        shape = shape_of(adapter)
        slab = self._slabs.get(shape) or AdapterSlab(shape, self._config, self.device, self._dtype, self.max_adapters)
        self.generation += 1
        slab.add(adapter)
        self._slabs[shape] = slab
        self._residents[adapter.info.digest] = _Resident(shape, slab)
        self.num_loads += 1

    def _evict(self, digest: str) -> None:
        resident = self._residents.pop(digest)
        self.generation += 1
        self.num_evictions += 1
        resident.slab.remove(digest)
        if resident.slab.num_adapters == 0:
            del self._slabs[resident.shape]
