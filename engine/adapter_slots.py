"""Which adapters are on the device: a bounded number, the least recently used one swapped out for the next."""

from collections import Counter, OrderedDict
from collections.abc import Iterable

import torch

from alorakit.engine.adapter_slab import AdapterSlab
from alorakit.engine.adapter_table import AdapterTable, TableEntry
from alorakit.engine.adapters import Adapter
from alorakit.engine.devices import pick_backend
from alorakit.engine.model_config import ModelConfig
from alorakit.engine.slab_store import SlabStore


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
        self.device = device
        store = AdapterTable if pick_backend(device) == "triton" else SlabStore
        self._store: AdapterTable | SlabStore = store(config, device, dtype, max_adapters)
        # How many running sequences hold each adapter that is there; the least recently used first.
        self._pins: OrderedDict[str, int] = OrderedDict()

    @property
    def num_resident(self) -> int:
        """Adapters on the device."""
        return len(self._pins)

    @property
    def num_pinned(self) -> int:
        """Adapters that a running sequence holds on the device."""
        return sum(pins > 0 for pins in self._pins.values())

    def is_resident(self, adapter: Adapter) -> bool:
        """Whether an adapter's weights are on the device."""
        return adapter.info.digest in self._pins

    def acquire(self, adapter: Adapter) -> bool:
        """Pin an adapter for one more running sequence, and bring it to the device if it is not there.

        Returns:
            False, with nothing changed, if every slot is pinned by other adapters.
        """
        digest = adapter.info.digest
        if digest not in self._pins:
            if len(self._pins) >= self.max_adapters:
                victim = next((digest for digest, pins in self._pins.items() if pins == 0), None)
                if victim is None:
                    return False
                self._evict(victim)
            self._load(adapter)
        self._pins[digest] += 1
        self._pins.move_to_end(digest)
        return True

    def release(self, adapter: Adapter) -> None:
        """Take back one pin; the adapter stays on the device until its slot is needed."""
        digest = self._resident(adapter)
        assert self._pins[digest] > 0, f"adapter {adapter.info.name!r} is not pinned"
        self._pins[digest] -= 1
        self._pins.move_to_end(digest)

    def device_form(self, adapter: Adapter) -> tuple[AdapterSlab, int]:
        """(slab, slot) of a resident adapter on the torch path; valid until ``generation`` changes."""
        assert isinstance(self._store, SlabStore)
        return self._store.find(self._resident(adapter))

    @property
    def table(self) -> AdapterTable:
        """The tables that Triton's kernels read."""
        assert isinstance(self._store, AdapterTable)
        return self._store

    def table_entry(self, adapter: Adapter) -> TableEntry:
        """Where a resident adapter is on the Triton path."""
        return self.table.find(self._resident(adapter))

    def clear(self) -> None:
        """Let go of all device memory."""
        self._pins.clear()
        self._store.clear()
        self.generation += 1

    def check_integrity(self, holders: Iterable[Adapter]) -> None:
        """Prove that residents and slabs agree and that no limit is exceeded (AssertionError if not).

        Args:
            holders: The adapter of every sequence that holds one, each as often as it is held.
        """
        assert len(self._pins) <= self.max_adapters
        pins = {digest: pins for digest, pins in self._pins.items() if pins}
        assert pins == Counter(adapter.info.digest for adapter in holders), "pins and holders disagree"
        self._store.check_integrity(self._pins)
        assert self.num_loads >= self.num_evictions + len(self._pins)

    def _resident(self, adapter: Adapter) -> str:
        """The digest of an adapter that must be there."""
        assert adapter.info.digest in self._pins, f"adapter {adapter.info.name!r} is not on the device"
        return adapter.info.digest

    def _load(self, adapter: Adapter) -> None:
        self.generation += 1
        self._store.add(adapter)
        self._pins[adapter.info.digest] = 0
        self.num_loads += 1

    def _evict(self, digest: str) -> None:
        del self._pins[digest]
        self.generation += 1
        self.num_evictions += 1
        self._store.remove(digest)
