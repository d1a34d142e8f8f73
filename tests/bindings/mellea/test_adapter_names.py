"""Names of adapters: taken, freed, given to another backend, and gone while requests run."""

import logging
import threading
import warnings

import pytest
from mellea.backends.adapters import (
    Adapter,
    EmbeddedBinding,
    EmbeddedIntrinsicAdapter,
    Identity,
    IntrinsicAdapter,
    get_io_contract,
)
from mellea.backends.adapters.adapter import CustomIntrinsicAdapter as MelleasCustomAdapter

from alorakit import CustomIntrinsicAdapter
from alorakit.bindings.mellea.adapters import UnsupportedAdapterError
from alorakit.engine.errors import AdapterError, AdapterNotFoundError
from tests.bindings.mellea.conftest import BASE, OPENING, YES_NO, works

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:Capability:UserWarning")


def test_the_same_name_twice(backend, checker, new_adapter, caplog):
    backend.add_adapter(checker)
    with pytest.raises(AdapterError, match="remove it first"):
        backend.add_adapter(new_adapter("checker", OPENING, YES_NO, seed=9))
    with caplog.at_level(logging.WARNING, logger="mellea"):
        backend.add_adapter(MelleasCustomAdapter(model_id=str(checker), base_model_name=BASE))
    assert "keeps the name" in caplog.text
    assert backend.list_adapters() == ["checker_alora"] and works(backend, "checker")


def test_the_same_object_twice_is_no_error(backend, checker, caplog):
    adapter = MelleasCustomAdapter(model_id=str(checker), base_model_name=BASE)
    backend.add_adapter(adapter)
    with caplog.at_level(logging.WARNING, logger="mellea"):
        backend.add_adapter(adapter)
    assert "registered already" in caplog.text and backend.list_adapters() == ["checker_alora"]


def test_an_adapter_of_another_backend(new_backend, checker):
    adapter, one, two = MelleasCustomAdapter(model_id=str(checker), base_model_name=BASE), new_backend(), new_backend()
    one.add_adapter(adapter)
    with pytest.raises(AdapterError, match="another backend"):
        two.add_adapter(adapter)
    one.unload_peft_adapter("checker_alora")
    one.remove_adapter("checker_alora")
    two.add_adapter(adapter)
    assert works(two, "checker")


def test_unloaded_removed_and_added_again(backend, checker):
    backend.add_adapter(checker)
    with pytest.raises(AdapterError, match="unload_peft_adapter"):
        backend.remove_adapter("checker_alora")
    backend.unload_peft_adapter("checker_alora")
    backend.unload_peft_adapter("checker_alora")
    assert "checker" not in backend.engine.adapters
    with pytest.raises(AdapterNotFoundError, match="load_peft_adapter"):
        works(backend, "checker")
    backend.load_peft_adapter("checker_alora")
    assert works(backend, "checker")
    backend.unload_peft_adapter("checker_alora")
    backend.remove_adapter("checker_alora")
    assert backend.list_adapters() == []
    for verb in (backend.load_peft_adapter, backend.activate_peft_adapter):
        with pytest.raises(AdapterNotFoundError, match="add_adapter"):
            verb("checker_alora")
    backend.add_adapter(checker)
    assert works(backend, "checker")


def test_another_bases_name_warns_and_another_shape_raises(backend, checker, tmp_path, tiny_tokenizer_dir):
    from tests.engine.folders import make_adapter, make_model

    with pytest.warns(UserWarning, match="names the base model 'Other-Base'"):
        backend.add_adapter(CustomIntrinsicAdapter(model_id=checker, base_model_name="Other-Base"))
    wide = make_model(tmp_path / "wide", tiny_tokenizer_dir, hidden_size=128)
    folder = make_adapter(tmp_path / "wide_adapter", wide, ["q_proj"], 4, [5, 6])
    with warnings.catch_warnings(), pytest.raises(AdapterError):
        warnings.simplefilter("ignore")
        backend.add_adapter(folder)
    assert backend.list_adapters() == ["checker_alora"] and list(backend.engine.adapters) == ["checker"]


def test_what_is_embedded_or_elsewhere_is_refused(backend):
    identity, contract = Identity("answerability", "alora", "answerability"), get_io_contract("answerability")
    embedded = EmbeddedIntrinsicAdapter("answerability", YES_NO, "alora")
    for given in (embedded, Adapter(identity, contract, EmbeddedBinding())):
        with pytest.raises(UnsupportedAdapterError, match="embedded"):
            backend.add_adapter(given)
    with pytest.raises(TypeError, match="cannot add a int"):
        backend.add_adapter(3)
    assert backend.list_adapters() == []


def test_a_configuration_beside_a_folder_is_refused(backend, checker):
    with pytest.raises(UnsupportedAdapterError, match="config="):
        backend.add_adapter(checker, config=YES_NO)


def test_a_configuration_cannot_be_changed_from_outside(backend, checker):
    config = dict(YES_NO)
    adapter = IntrinsicAdapter("requirement-check", config_dict=config)
    adapter.get_local_hf_path = lambda base_model_name: str(checker)
    backend.add_adapter(adapter)
    config["instruction"] = "{nothing}"
    assert works(backend, "requirement-check")


def test_adapters_come_and_go_while_requests_run(backend, checker, new_adapter):
    """A request that was admitted ends with its weights; one that comes too late gets an error that says so."""
    errors, answers, stop = [], [], threading.Event()
    backend.add_adapter(checker)

    def ask():
        while not stop.is_set():
            try:
                answers.append(works(backend, "checker"))
            except AdapterNotFoundError:
                answers.append(None)
            except BaseException as exc:
                errors.append(exc)
                return

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(15):
        backend.unload_peft_adapter("checker_alora")
        backend.remove_adapter("checker_alora")
        backend.add_adapter(checker)
    stop.set()
    for thread in threads:
        thread.join(60)
    assert not errors and answers
    assert works(backend, "checker")
