"""The registry under several threads, and what it owns; threads meet at events, never by chance."""

import gc
import os
import threading
import weakref
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from alorakit.engine import registry as registry_module
from alorakit.engine.errors import AdapterError, AdapterNotFoundError, ClosedError
from alorakit.engine.registry import AdapterRegistry

from .test_parity import prompt_with

TIMEOUT_S = 60  # ends a test that would hang; nothing waits this long otherwise


@pytest.fixture
def registry(tiny_engine) -> AdapterRegistry:
    return tiny_engine()._registry


@pytest.fixture(scope="module")
def folders(tiny_models, make_adapter):
    """Folders of two different adapters."""
    return [make_adapter(tiny_models["llama"], seed=seed) for seed in (1, 2)]


class Gate:
    """Another thread whose loads wait until the test opens the gate; the test's own loads pass."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self.pool, self.entered, self.opened = pool, threading.Event(), threading.Event()

    def start(self, *call) -> Future:
        """Run a call in the other thread; returns when that is about to read files."""
        future = self.pool.submit(*call)
        assert self.entered.wait(TIMEOUT_S)
        return future

    def finish(self, future: Future):
        self.opened.set()
        return future.result(TIMEOUT_S)


@pytest.fixture
def gate(monkeypatch):
    load = registry_module.load_adapter

    def waiting(*args):
        if threading.current_thread() is not threading.main_thread():
            gate.entered.set()
            assert gate.opened.wait(TIMEOUT_S)
        return load(*args)

    monkeypatch.setattr(registry_module, "load_adapter", waiting)
    with ThreadPoolExecutor(1) as pool:
        gate = Gate(pool)
        yield gate
        gate.opened.set()  # so that a failing test does not hang


@pytest.mark.parametrize("replace", [False, True])
def test_the_second_of_two_adds_under_one_name_is_told(registry, folders, gate, replace):
    first = gate.start(registry.add, "a", folders[0], False, None)
    with pytest.raises(AdapterError, match="'a' is being added by another call"):
        registry.add("a", folders[1], replace, None)
    assert registry.infos == {}
    info = gate.finish(first)
    assert registry.infos["a"] == info == registry.get("a").info


def test_other_names_do_not_wait_for_a_load(registry, folders, gate):
    first = gate.start(registry.add, "slow", folders[0], False, None)
    assert registry.add("quick", folders[1], False, None).name == "quick"
    registry.remove("quick")
    assert registry.infos == {}
    gate.finish(first)
    assert list(registry.infos) == ["slow"]


def test_the_old_adapter_serves_until_its_successor_is_loaded(registry, folders, gate):
    old = registry.add("a", folders[0], False, None)
    second = gate.start(registry.add, "a", folders[1], True, None)
    snapshot = registry.infos
    assert registry.get("a").info == snapshot["a"] == old
    new = gate.finish(second)
    assert registry.get("a").info == new != old
    assert snapshot["a"] == old  # a snapshot does not change


def test_removed_while_its_successor_loads(registry, folders, gate):
    registry.add("a", folders[0], False, None)
    second = gate.start(registry.add, "a", folders[1], True, None)
    registry.remove("a")
    with pytest.raises(AdapterNotFoundError):
        registry.get("a")
    info = gate.finish(second)
    assert registry.infos["a"] == info


def test_a_failed_add_keeps_the_old_adapter_and_frees_the_name(registry, folders, tmp_path):
    old = registry.add("a", folders[0], False, None)
    with pytest.raises(AdapterError, match="no such folder"):
        registry.add("a", tmp_path / "nowhere", True, None)
    assert registry.get("a").info == old
    assert registry.add("a", folders[1], True, None) != old


def test_an_add_that_ends_after_close_registers_nothing(registry, folders, gate):
    late = gate.start(registry.add, "a", folders[0], False, None)
    registry.close()
    with pytest.raises(ClosedError, match="nothing was registered"):
        gate.finish(late)
    assert registry.infos == {}


def test_of_many_adds_at_once_one_wins_and_the_others_are_told(registry, folders):
    names, barrier = [f"n{i % 3}" for i in range(12)], threading.Barrier(12)

    def add(name: str) -> bool:
        barrier.wait(TIMEOUT_S)
        try:
            registry.add(name, folders[0], False, None)
        except AdapterError as error:
            assert "another call" in str(error) or "already registered" in str(error)
            return False
        return True

    with ThreadPoolExecutor(12) as pool:
        won = list(pool.map(add, names))
    assert sum(won) == 3
    assert sorted(registry.infos) == ["n0", "n1", "n2"]


def test_the_snapshot_is_read_only(registry, folders):
    registry.add("a", folders[0], False, None)
    with pytest.raises(TypeError):
        registry.infos["b"] = registry.infos["a"]


def test_one_digest_keeps_one_set_of_tensors(registry, folders):
    for name in "ab":
        registry.add(name, folders[0], False, None)
    registry.add("c", folders[1], False, None)
    weights = [registry.get(name).weights for name in "abc"]
    assert weights[0] is weights[1] is not weights[2]
    alive = weakref.ref(weights[0])
    del weights
    registry.remove("a")
    assert registry.get("b").weights is alive()
    registry.remove("b")
    gc.collect()
    assert alive() is None


def test_an_unknown_name_lists_the_known_ones_within_reason(registry, folders):
    with pytest.raises(AdapterNotFoundError, match="registered: none"):
        registry.get("a")
    for index in range(30):
        registry.add(f"n{index:02}", folders[0], False, None)
    with pytest.raises(AdapterNotFoundError, match=r"n00, n01, .*n19, …; add") as caught:
        registry.get("a")
    assert "n20" not in str(caught.value)


def test_weights_are_compact_and_owned(tiny_engine, tiny_models, make_adapter):
    folder = make_adapter(tiny_models["llama"], seed=3, rank=4)
    engine, prompt = tiny_engine(), prompt_with(1, 1)
    engine.add_adapter("kept", folder)
    weights = engine._registry.get("kept").weights
    size = sum(tensor.untyped_storage().nbytes() for pair in weights.pairs.values() for tensor in (pair.a, pair.b))
    assert size == sum((64 + out) * 4 * 4 for out in (64, 32, 32)) * 3  # (in + out) * rank * bytes, three layers
    (want,) = engine.generate(prompt, adapter="kept")
    os.truncate(folder / "adapter_model.safetensors", 100)
    fresh = tiny_engine()
    fresh._registry._adapters = engine._registry._adapters  # not on this engine's device yet
    assert fresh.generate(prompt, adapter="kept")[0].token_ids == want.token_ids
