"""Adapters on the Triton path: tables of addresses that point at exactly the adapter's weights."""

import pytest
import torch

from alorakit.engine.adapter_slots import AdapterSlots
from alorakit.engine.adapter_table import ALIGNMENT, RANK_STEP, AdapterTable
from alorakit.engine.adapters import FUSED, Adapter
from alorakit.kernels import ops

from .conftest import ALL_SEVEN, QKV
from .test_adapter_slots import CONFIG, CPU, make


@pytest.fixture
def table() -> AdapterTable:
    return AdapterTable(CONFIG, CPU, torch.float32, 3)


def matrices(table: AdapterTable, adapter: Adapter, layer: int, target: str) -> tuple[torch.Tensor, torch.Tensor]:
    """A and B that the tables point at, as the kernels would read them."""
    projection, part = next((name, parts.index(target)) for name, parts in FUSED.items() if target in parts)
    entry, tables = table.find(adapter.info.digest), table.tables[projection][layer]
    rank = int(tables.ranks[entry.slot, part])
    pair = adapter.weights.pairs[layer, target]
    found = []
    for address, shape in zip(
        tables.pointers[entry.slot, part].tolist(), ((rank, pair.a.shape[1]), (pair.b.shape[0], rank)), strict=True
    ):
        assert address % ALIGNMENT == 0
        start = (address - entry.weights.data_ptr()) // entry.weights.element_size()
        found.append(entry.weights[start : start + shape[0] * shape[1]].view(shape))
    return found[0], found[1]


@pytest.mark.parametrize("rank", [1, 8, 13])
def test_addresses_lead_to_the_weights(table, rank):
    adapter = make(1, rank, ALL_SEVEN)
    table.add(adapter)
    for (layer, target), pair in adapter.weights.pairs.items():
        a, b = matrices(table, adapter, layer, target)
        assert a.shape[0] % RANK_STEP == 0 and a.shape[0] - rank < RANK_STEP
        assert torch.equal(a[:rank], pair.a) and not a[rank:].any()
        assert torch.equal(b[:, :rank], pair.scaled_b()) and not b[:, rank:].any()


def test_what_an_adapter_leaves_alone_has_rank_zero(table):
    adapter = make(1, 4, ["v_proj"], layers=[1])
    table.add(adapter)
    slot = table.find(adapter.info.digest).slot
    assert table.find(adapter.info.digest).projections == {"qkv"}
    assert table.tables["qkv"][1].ranks[slot].tolist() == [0, 0, 8]
    others = [
        table.tables[name][layer].ranks[slot] for name in FUSED for layer in range(3) if (name, layer) != ("qkv", 1)
    ]
    assert not any(ranks.any() for ranks in others)


def test_a_slot_is_given_again_and_nothing_of_the_last_one_is_left(table):
    first, second = make(1, 16, ALL_SEVEN), make(2, 4, QKV)
    table.add(first)
    slot = table.find(first.info.digest).slot
    table.remove(first.info.digest)
    table.check_integrity([])
    for _ in range(2):  # the free slots before it
        table.add(make(10 + _, 4, QKV))
    table.add(second)
    assert table.find(second.info.digest).slot == slot
    assert not table.tables["down"][0].ranks[slot].any()
    a, _ = matrices(table, second, 2, "k_proj")
    assert torch.equal(a[:4], second.weights.pairs[2, "k_proj"].a)
    table.check_integrity([second.info.digest, "digest10", "digest11"])


def test_an_adapter_for_which_there_is_no_memory_leaves_nothing(table, monkeypatch):
    def fail(*args: object, **kwargs: object) -> None:
        raise torch.OutOfMemoryError("no memory")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "empty", fail)
        with pytest.raises(torch.OutOfMemoryError):
            table.add(make(1))
    table.check_integrity([])
    table.add(make(1))
    table.check_integrity(["digest1"])


def test_slots_use_the_table_where_triton_runs(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    ops.use_backend("triton")
    try:
        slots = AdapterSlots(CONFIG, CPU, torch.float32, 2)
    finally:
        ops.use_backend(None)
    first, second, third = (make(index, rank) for index, rank in ((0, 4), (1, 33), (2, 8)))
    for adapter in (first, second, third):
        assert slots.acquire(adapter)
        slots.release(adapter)
        slots.check_integrity([])
    assert (slots.num_resident, slots.num_evictions) == (2, 1)
    assert slots.table_entry(second).rank == 33
    with pytest.raises(AssertionError, match="'a0' is not on the device"):
        slots.table_entry(first)
    slots.clear()
    slots.check_integrity([])
