"""LocalFileBinding alone and in an adapter: Mellea's life cycle of weights, and its order of locks."""

import logging
import threading

import pytest
from mellea import MelleaSession
from mellea.backends.adapters import Adapter, AdapterType, Identity, LocalFileBinding, get_io_contract
from mellea.stdlib.context import ChatContext
from mellea.stdlib.requirements import req

from alorakit.engine.errors import AdapterError
from tests.bindings.mellea.conftest import OPENING, YES_NO

KEY = "requirement-check_alora"


@pytest.fixture
def new_binding(checker):
    def make(kind=AdapterType.ALORA, folder=checker):
        return LocalFileBinding("requirement-check", kind, repo_id=str(folder), revision="main")

    return make


def composed(binding, kind="alora"):
    return Adapter(
        Identity("requirement-check", kind, "requirement_check"), get_io_contract("requirement-check"), binding
    )


def checks(backend):
    session = MelleaSession(backend, ctx=ChatContext())
    session.chat("The pump leaks.")
    return session.validate(req("It is short."))[0].thunk._meta["alorakit"]["adapter"]


def test_an_adapter_with_its_binding_checks(backend, new_binding):
    adapter = composed(new_binding())
    backend.add_adapter(adapter)
    assert backend.list_adapters() == [KEY] and checks(backend) == KEY
    assert adapter.weights.backend is backend and adapter.weights.path
    assert backend.resolve_adapter("requirement-check") is adapter
    with backend.adapter_scope(adapter):
        assert checks(backend) == KEY


def test_a_binding_alone_is_prepared_and_released(backend, new_binding):
    binding = new_binding()
    binding.bind_backend(backend)
    binding.prepare()
    binding.prepare()
    assert backend.list_adapters() == [KEY] and KEY in backend.engine.adapters
    binding.activate()
    with pytest.raises(RuntimeError, match="deactivate"):
        binding.release()
    binding.deactivate()
    binding.release()
    binding.release()
    assert backend.list_adapters() == [] and not backend.engine.adapters and binding.path is None


def test_a_released_name_is_free_for_another(backend, new_binding):
    first = composed(new_binding())
    backend.add_adapter(first)
    first.weights.release()
    assert backend.list_adapters() == [] and backend._composed_adapters == {}
    with pytest.raises(RuntimeError, match="release"):
        backend.add_adapter(first)
    assert checks(backend) is None
    backend.add_adapter(composed(new_binding()))
    assert checks(backend) == KEY


def test_the_same_name_twice_keeps_the_first(backend, new_binding, caplog):
    first = composed(new_binding())
    backend.add_adapter(first)
    with caplog.at_level(logging.WARNING, logger="mellea"):
        backend.add_adapter(composed(new_binding()))
    assert "keeps the name" in caplog.text and backend.resolve_adapter("requirement-check") is first
    backend.add_adapter(first)
    other = new_binding()
    other.bind_backend(backend)
    with pytest.raises(RuntimeError, match="refused"):
        other.prepare()


def test_a_name_or_type_that_disagrees_is_refused(backend, new_binding):
    with pytest.raises(AdapterError, match="must agree"):
        backend.add_adapter(composed(new_binding(), "lora"))
    assert backend.list_adapters() == []


def test_weights_that_cannot_be_loaded_leave_nothing(backend, new_binding, new_adapter):
    folder = new_adapter("broken", OPENING, YES_NO)
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    adapter = composed(new_binding(folder=folder))
    with pytest.raises(AdapterError):
        backend.add_adapter(adapter)
    assert backend.list_adapters() == [] and not backend.engine.adapters and adapter.weights.backend is None
    backend.add_adapter(composed(new_binding()))
    assert checks(backend) == KEY


def test_a_lora_and_an_alora_of_one_name_live_together(backend, new_binding, new_adapter):
    backend.add_adapter(composed(new_binding(AdapterType.LORA, new_adapter("x", None, YES_NO)), "lora"))
    backend.add_adapter(composed(new_binding()))
    assert sorted(backend.list_adapters()) == [KEY, "requirement-check_lora"] and checks(backend) == KEY


def test_adding_and_releasing_at_once_ends(backend, new_binding):
    """Mellea's bindings take their own lock before the backend's; whoever took them the other way round would hang."""
    errors = []

    def churn():
        try:
            for _ in range(20):
                adapter = composed(new_binding())
                try:
                    backend.add_adapter(adapter)
                    adapter.weights.release()
                except RuntimeError as exc:
                    assert "refused" in str(exc) or "no longer" in str(exc)
        except BaseException as exc:
            errors.append(exc)

    threads = [threading.Thread(target=churn, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads) and not errors
    for key in backend.list_adapters():
        backend.unload_peft_adapter(key)
        backend.remove_adapter(key)
    assert not backend.engine.adapters


def test_the_locks_are_taken_in_melleas_order(backend, new_binding, monkeypatch):
    """While one thread has the binding's lock and wants the backend's, another may add the binding."""
    binding = new_binding()
    adapter = composed(binding)
    backend.add_adapter(adapter)
    entered, waits, bind = threading.Event(), threading.Event(), binding.bind_backend

    def bound(backend):
        waits.set()
        bind(backend)

    monkeypatch.setattr(binding, "bind_backend", bound)

    def lifecycle():
        with binding._lifecycle_lock:
            entered.set()
            waits.wait(30)  # the other thread is about to take this lock
            with backend._adapter_activation_lock():
                pass

    holder = threading.Thread(target=lifecycle, daemon=True)
    holder.start()
    entered.wait(30)
    adder = threading.Thread(target=backend._adapters._add_composed, args=(backend, composed(binding)), daemon=True)
    backend._adapters.composed.clear()
    adder.start()
    holder.join(30)
    adder.join(30)
    assert not holder.is_alive() and not adder.is_alive()
    assert list(backend._adapters.composed) == [KEY]
