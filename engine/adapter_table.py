"""Adapters' weights for the Triton path: each adapter in one piece, found through tables of addresses.

Kernels read the tables on the device, so adapters of any mix of ranks and targets share a launch, and come and go
without a change to a captured CUDA graph.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from alorakit.engine.adapters import FUSED, Adapter, linear_shapes
from alorakit.engine.model_config import ModelConfig
from alorakit.kernels.ops import LoraTable

# Addresses of matrices are multiples of this many bytes, so that loads may be as wide as they come.
ALIGNMENT = 256
# Linear layer -> the fused projection it is in, and its place there.
_PLACES = {part: (name, index) for name, parts in FUSED.items() for index, part in enumerate(parts)}


@dataclass(frozen=True)
class TableEntry:
    """An adapter that is there.

    Attributes:
        slot: Its row of the tables.
        rank: Its highest rank.
        projections: Fused projections that it adapts in any layer.
        weights: All its matrices, in one piece.
    """

    slot: int
    rank: int
    projections: frozenset[str]
    weights: Tensor


class AdapterTable:
    """Owns the adapters' device memory and the tables.

    Attributes:
        tables: For each fused projection, the table of each layer.
    """

    def __init__(self, config: ModelConfig, device: torch.device, dtype: torch.dtype, max_slots: int) -> None:
        """No adapter yet; room for ``max_slots``."""
        self._device, self._dtype = device, dtype
        self._entries: dict[str, TableEntry] = {}
        self._free = list(range(max_slots))
        self._pointers: dict[str, Tensor] = {}
        self._ranks: dict[str, Tensor] = {}
        self.tables: dict[str, Sequence[LoraTable]] = {}
        shapes = linear_shapes(config)
        for projection, parts in FUSED.items():
            shape = (config.num_layers, max_slots, len(parts))
            self._pointers[projection] = torch.zeros(*shape, 2, dtype=torch.int64, device=device)
            self._ranks[projection] = torch.zeros(shape, dtype=torch.int32, device=device)
            widths = tuple(shapes[part][1] for part in parts)
            self.tables[projection] = [
                LoraTable(pointers, ranks, widths)
                for pointers, ranks in zip(self._pointers[projection], self._ranks[projection], strict=True)
            ]

    def add(self, adapter: Adapter) -> None:
        """Copy an adapter's weights, LoRA scaling included, to the device; nothing is changed if that fails."""
        weights, addresses = self._pack(adapter)
        slot = self._free[0]
        self._write(slot, adapter, addresses)
        pairs = adapter.weights.pairs
        rank = max((pair.rank for pair in pairs.values()), default=1)
        adapted = frozenset(_PLACES[target][0] for _, target in pairs)
        self._entries[adapter.info.digest] = TableEntry(slot, rank, adapted, weights)
        self._free.pop(0)

    def remove(self, digest: str) -> None:
        """Let go of an adapter's weights."""
        entry = self._entries.pop(digest)
        for name in FUSED:
            self._pointers[name][:, entry.slot] = 0
            self._ranks[name][:, entry.slot] = 0
        self._free.append(entry.slot)

    def find(self, digest: str) -> TableEntry:
        """Where an adapter is."""
        return self._entries[digest]

    def clear(self) -> None:
        """Let go of all adapters."""
        for digest in list(self._entries):
            self.remove(digest)

    def check_integrity(self, digests: Iterable[str]) -> None:
        """Prove that exactly these adapters are there (AssertionError if not)."""
        assert sorted(self._entries) == sorted(digests), "table and residents disagree"
        slots = [entry.slot for entry in self._entries.values()]
        total = len(next(iter(self._ranks.values()))[0])
        assert sorted([*slots, *self._free]) == list(range(total)), "slots lost or given twice"
        for ranks in self._ranks.values():
            assert not ranks[:, self._free].any(), "a free slot has weights"

    def _pack(self, adapter: Adapter) -> tuple[Tensor, list[tuple[int, int]]]:
        """All matrices in one piece on the device, and the addresses of each pair's A and B."""
        item = self._dtype.itemsize
        per_line, end = ALIGNMENT // item, 0
        matrices: list[tuple[int, Tensor]] = []
        for pair in adapter.weights.pairs.values():
            for matrix in (pair.a, pair.scaled_b()):
                matrices.append((end, matrix))
                end += -(-matrix.numel() // per_line) * per_line
        weights = torch.empty(end + per_line, dtype=self._dtype, device=self._device)
        first = -weights.data_ptr() % ALIGNMENT // item  # torch aligns less on a CPU
        host = torch.zeros(weights.shape, dtype=self._dtype)
        for start, matrix in matrices:
            host[first + start : first + start + matrix.numel()].view(matrix.shape).copy_(matrix)
        weights.copy_(host)
        addresses = [weights.data_ptr() + (first + start) * item for start, _ in matrices]
        return weights, list(zip(addresses[::2], addresses[1::2], strict=True))

    def _write(self, slot: int, adapter: Adapter, addresses: list[tuple[int, int]]) -> None:
        """Write an adapter's addresses and ranks to a slot; the other entries of the slot become zero."""
        pointers = {name: torch.zeros_like(tensor[:, slot], device="cpu") for name, tensor in self._pointers.items()}
        ranks = {name: torch.zeros_like(tensor[:, slot], device="cpu") for name, tensor in self._ranks.items()}
        for ((layer, target), pair), pair_addresses in zip(adapter.weights.pairs.items(), addresses, strict=True):
            projection, part = _PLACES[target]
            pointers[projection][layer, part] = torch.tensor(pair_addresses)
            ranks[projection][layer, part] = pair.rank
        for name in FUSED:
            self._pointers[name][:, slot] = pointers[name].to(self._device)
            self._ranks[name][:, slot] = ranks[name].to(self._device)
