"""Adapters on the device: who is there, who is swapped out, and that each one's weights are its own."""

from pathlib import Path

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from alorakit.engine.adapter_slots import AdapterSlots
from alorakit.engine.adapters import FUSED, Adapter, AdapterInfo, AdapterWeights, LoraPair, linear_shapes
from alorakit.engine.batched_adapters import BatchedAdapters
from alorakit.engine.model_config import ModelConfig
from alorakit.kernels.ops import LoraStack

from .conftest import ALL_SEVEN, QKV, hf_config

CPU = torch.device("cpu")
CONFIG = ModelConfig.from_hf(hf_config("llama").to_dict() | {"architectures": ["LlamaForCausalLM"]})
WIDTHS = {"qkv": 128, "o": 64, "gate_up": 224, "down": 64}


def make(index: int, rank: int = 4, targets=QKV, layers=range(3), name: str = "", config=CONFIG) -> Adapter:
    generator = torch.Generator().manual_seed(index)
    shapes = linear_shapes(config)
    pairs = {
        (layer, target): LoraPair(
            torch.randn(rank, shapes[target][0], generator=generator) / 8,
            torch.randn(shapes[target][1], rank, generator=generator) / rank**0.5,
            scaling=0.5 + index,
        )
        for layer in layers
        for target in targets
    }
    info = AdapterInfo(name or f"a{index}", "lora", rank, tuple(targets), None, f"digest{index}", Path(), "", None)
    return Adapter(info, AdapterWeights(pairs))


def slots_of(num: int, dtype: torch.dtype = torch.float32) -> AdapterSlots:
    return AdapterSlots(CONFIG, CPU, dtype, num)


def expected(adapter: Adapter | None, layer: int, projection: str, x: torch.Tensor) -> torch.Tensor:
    """The delta by its definition, linear layer by linear layer."""
    parts = []
    for target in FUSED[projection]:
        pair = adapter.weights.pairs.get((layer, target)) if adapter else None
        width = linear_shapes(CONFIG)[target][1]
        parts.append(torch.zeros(len(x), width) if pair is None else pair.scaling * (x @ pair.a.T) @ pair.b.T)
    return torch.cat(parts, dim=1)


def check_deltas(slots: AdapterSlots, batch: list[Adapter | None], layer: int, projection: str) -> None:
    """One row for each entry of ``batch``: every row gets its own adapter's delta."""
    features = linear_shapes(CONFIG)["down_proj" if projection == "down" else "q_proj"][0]
    x = torch.randn(len(batch), features)
    segments = [(row, row + 1, adapter) for row, adapter in enumerate(batch) if adapter is not None]
    out = BatchedAdapters(slots, segments)(layer, projection, x, torch.zeros(len(batch), WIDTHS[projection]))
    want = torch.cat([expected(adapter, layer, projection, x[row : row + 1]) for row, adapter in enumerate(batch)])
    torch.testing.assert_close(out, want, atol=1e-4, rtol=1e-4)


def test_the_least_recently_used_adapter_makes_room():
    slots, adapters = slots_of(2), [make(i) for i in range(4)]
    for adapter in adapters[:2]:
        assert slots.acquire(adapter)
        slots.release(adapter)
    assert slots.acquire(adapters[0])  # used again, and held
    assert slots.acquire(adapters[2])
    assert [slots.is_resident(a) for a in adapters] == [True, False, True, False]
    assert (slots.num_resident, slots.num_pinned, slots.num_loads, slots.num_evictions) == (2, 2, 3, 1)
    before = slots.generation
    assert not slots.acquire(adapters[3])  # both are held: nothing changes
    assert (slots.num_resident, slots.num_pinned, slots.num_loads, slots.num_evictions) == (2, 2, 3, 1)
    assert slots.generation == before
    slots.check_integrity([adapters[0], adapters[2]])
    slots.release(adapters[0])
    assert slots.acquire(adapters[3])
    assert not slots.is_resident(adapters[0])
    slots.check_integrity([adapters[2], adapters[3]])


def test_a_pin_counts_sequences():
    slots, first, second = slots_of(1), make(0), make(1)
    assert slots.acquire(first)
    assert slots.acquire(first)
    slots.release(first)
    assert not slots.acquire(second)
    slots.release(first)
    assert slots.acquire(second)
    with pytest.raises(AssertionError, match="'a0' is not on the device"):
        slots.release(first)
    slots.release(second)
    with pytest.raises(AssertionError, match="'a1' is not pinned"):
        slots.release(second)
    with pytest.raises(AssertionError, match="'a0' is not on the device"):
        slots.device_form(first)


def test_one_digest_is_one_resident_whatever_its_names():
    slots = slots_of(2)
    assert slots.acquire(make(5, name="x"))
    assert slots.acquire(make(5, name="y"))
    assert (slots.num_resident, slots.num_loads) == (1, 1)
    slots.release(make(5, name="x"))
    assert slots.num_pinned == 1


def test_another_adapter_of_the_same_name_is_another_resident():
    slots, old, new = slots_of(2), make(1, name="x"), make(2, name="x")
    assert slots.acquire(old)
    assert slots.acquire(new)
    check_deltas(slots, [old, new], 0, "qkv")


@pytest.mark.parametrize("projection", list(WIDTHS))
def test_ranks_targets_and_layers_mixed_in_one_batch(projection):
    adapters = [
        make(0, 1), make(1, 256), make(2, 32), make(3, 32, ALL_SEVEN), make(4, 6, ["q_proj", "v_proj"]),
        make(5, 8, ["down_proj", "up_proj"]), make(6, 16, ALL_SEVEN, layers=[1]), make(7, 32, ALL_SEVEN),
    ]  # fmt: skip
    slots = slots_of(8)
    assert all(slots.acquire(adapter) for adapter in adapters)
    slots.check_integrity(adapters)
    batch = [*adapters, None, adapters[3], None, *adapters[::-1]]
    for layer in range(3):
        check_deltas(slots, batch, layer, projection)


def test_a_batch_is_not_used_after_adapters_moved():
    slots = slots_of(2)
    assert slots.acquire(make(0))
    batch = BatchedAdapters(slots, [(0, 1, make(0))])
    batch(0, "qkv", torch.zeros(1, 64), torch.zeros(1, 128))
    assert slots.acquire(make(1))
    with pytest.raises(AssertionError, match="moved"):
        batch(0, "qkv", torch.zeros(1, 64), torch.zeros(1, 128))


@pytest.mark.parametrize("method", ["write", "resized"])
@pytest.mark.parametrize("calls", [0, 2])
def test_a_load_that_fails_leaves_the_others_as_they_were(monkeypatch, method, calls):
    slots, first, second = slots_of(4), make(0), make(1)
    assert slots.acquire(first)
    original, left = getattr(LoraStack, method), iter(range(calls))

    def failing(*args):
        if next(left, None) is None:
            raise MemoryError
        return original(*args)

    monkeypatch.setattr(LoraStack, method, failing)
    with pytest.raises(MemoryError):
        slots.acquire(second)
    slots.check_integrity([first])
    assert (slots.is_resident(second), slots.num_loads) == (False, 1)
    check_deltas(slots, [None, first], 2, "qkv")
    monkeypatch.undo()
    assert slots.acquire(second)
    check_deltas(slots, [second, first], 2, "qkv")


def test_clear_lets_go_of_everything():
    slots = slots_of(3)
    assert slots.acquire(make(0))
    slots.clear()
    assert slots.num_resident == 0
    slots.check_integrity([])


POOL = [
    *(make(i) for i in range(5)),
    *(make(i, 32) for i in range(5, 8)),
    make(8, 3),
    make(9, 6, ["q_proj", "v_proj"]),
]


class Slots(RuleBasedStateMachine):
    """Against a list of residents, least recently used first, and a count of pins for each."""

    def __init__(self) -> None:
        super().__init__()
        self.slots = slots_of(4, torch.bfloat16)
        self.order: list[int] = []
        self.pins = dict.fromkeys(range(len(POOL)), 0)

    @rule(index=st.integers(0, len(POOL) - 1))
    def acquire(self, index: int) -> None:
        free = [i for i in self.order if self.pins[i] == 0]
        fits = index in self.order or len(self.order) < 4 or bool(free)
        assert self.slots.acquire(POOL[index]) == fits
        if not fits:
            return
        if index in self.order:
            self.order.remove(index)
        elif len(self.order) == 4:
            self.order.remove(free[0])
        self.order.append(index)
        self.pins[index] += 1

    @precondition(lambda self: any(self.pins.values()))
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        index = data.draw(st.sampled_from([i for i, pins in self.pins.items() if pins]))
        self.slots.release(POOL[index])
        self.pins[index] -= 1
        self.order.remove(index)
        self.order.append(index)

    @invariant()
    def sound(self) -> None:
        self.slots.check_integrity([POOL[i] for i, pins in self.pins.items() for _ in range(pins)])
        assert [i for i in range(len(POOL)) if self.slots.is_resident(POOL[i])] == sorted(self.order)
        assert self.slots.num_pinned == sum(pins > 0 for pins in self.pins.values())
        for index in self.order:  # whoever moved or was overwritten, the weights are this adapter's
            slab, slot = self.slots.device_form(POOL[index])
            pair, stack = POOL[index].weights.pairs[1, "q_proj"], slab.stacks[1, "qkv"]
            rank = pair.a.shape[0]
            assert torch.equal(stack.a[slot, :, :rank], pair.a.T.bfloat16())
            assert torch.equal(stack.few_rows.b[slot, 0, :rank], pair.scaled_b()[:32].T)
            assert stack.b[slot, 0, rank:].count_nonzero() == 0


TestSlots = Slots.TestCase
TestSlots.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
