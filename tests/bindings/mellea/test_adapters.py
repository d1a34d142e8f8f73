"""Every form in which an adapter can be given, and what becomes of its name."""

import json
import logging
import os
import shutil
import threading
import warnings
from pathlib import Path

import pytest
from mellea import MelleaSession
from mellea.backends.adapters import (
    Adapter,
    AdapterType,
    EmbeddedBinding,
    EmbeddedIntrinsicAdapter,
    Identity,
    IntrinsicAdapter,
    catalog,
    get_io_contract,
)
from mellea.backends.adapters.adapter import CustomIntrinsicAdapter as MelleasCustomAdapter
from mellea.stdlib.components import Intrinsic
from mellea.stdlib.context import ChatContext

from alorakit import CustomIntrinsicAdapter
from alorakit.bindings.mellea.adapters import UnsupportedAdapterError
from alorakit.engine.errors import AdapterError, AdapterNotFoundError
from tests.bindings.mellea.conftest import BASE, OPENING, YES_NO

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:Capability:UserWarning")
BOTH = (AdapterType.ALORA, AdapterType.LORA)


@pytest.fixture(autouse=True)
def same_catalog():
    """Mellea's catalog as it was, whatever adapters a test made."""
    entries, table = list(catalog._INTRINSICS_CATALOG_ENTRIES), dict(catalog._INTRINSICS_CATALOG)
    yield
    catalog._INTRINSICS_CATALOG_ENTRIES[:] = entries
    catalog._INTRINSICS_CATALOG = table


def works(backend, name):
    """Whether an adapter function of that name answers."""
    session = MelleaSession(backend, ctx=ChatContext())
    session.chat("The pump leaks.")
    action = Intrinsic(name, intrinsic_kwargs={"requirement": "It is short."}, adapter_types=BOTH)
    thunk = session.act(action, strategy=None)
    return 0 <= json.loads(thunk.value)["requirement_check"]["score"] <= 1


def into_hub(cache: Path, repo: str, files: dict[str, Path], commit: str = "0" * 40) -> None:
    """Files in the Hub's cache, as a download leaves them."""
    root = cache / f"models--{repo.replace('/', '--')}"
    (root / "refs").mkdir(parents=True, exist_ok=True)
    (root / "refs" / "main").write_text(commit, encoding="utf-8")
    for inside, folder in files.items():
        shutil.copytree(folder, root / "snapshots" / commit / inside, dirs_exist_ok=True)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A cache of the Hub of its own."""
    import huggingface_hub.constants

    cache = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    return cache


# --- forms --------------------------------------------------------------------------------------------------------


def test_a_folder_by_str_by_path_and_by_alorakits_own_class(new_backend, checker):
    for given in (str(checker), checker, CustomIntrinsicAdapter(model_id=checker, base_model_name=BASE)):
        backend = new_backend()
        backend.add_adapter(given)
        assert backend.list_adapters() == ["checker_alora"] and works(backend, "checker")


def test_a_relative_folder(backend, checker, monkeypatch):
    monkeypatch.chdir(checker.parent)
    backend.add_adapter("./checker")
    assert backend.list_adapters() == ["checker_alora"]


@pytest.mark.parametrize("path", ["absolute", "relative", "name", "Path"])
def test_melleas_own_class_by_folder_is_named_like_the_folder(backend, checker, monkeypatch, path):
    """Mellea takes the second part of a path for the name: every adapter below /home would be called home."""
    monkeypatch.chdir(checker.parent)
    given = {"absolute": str(checker), "relative": "./checker", "name": "checker", "Path": checker}[path]
    adapter = MelleasCustomAdapter(model_id=given, base_model_name=BASE)
    monkeypatch.chdir(os.sep)
    backend.add_adapter(adapter)
    assert backend.list_adapters() == ["checker_alora"] and works(backend, "checker")


def test_two_folders_of_melleas_own_class_are_two_adapters(backend, new_adapter):
    for seed, name in ((1, "one"), (2, "two")):
        folder = new_adapter(name, OPENING, YES_NO, seed=seed)
        backend.add_adapter(MelleasCustomAdapter(model_id=str(folder), base_model_name=BASE))
    assert backend.list_adapters() == ["one_alora", "two_alora"]
    digests = {info.digest for info in backend.engine.adapters.values()}
    assert len(digests) == 2


def test_a_folder_is_not_hidden_by_an_adapter_of_the_same_name(new_backend, new_adapter):
    """Neither by one of Mellea's catalog nor by one that another folder had before."""
    digests = set()
    for seed in (1, 2):
        folder = new_adapter("checker", OPENING, YES_NO, seed=seed)
        for name in ("requirement-check", "mine"):
            backend = new_backend()
            backend.add_adapter(MelleasCustomAdapter(model_id=str(folder), intrinsic_name=name, base_model_name=BASE))
            [info] = backend.engine.adapters.values()
            digests.add(info.digest)
    assert len(digests) == 2
    assert "granite" in catalog._INTRINSICS_CATALOG["requirement-check"].repo_id


def test_melleas_own_class_knows_a_lora(backend, new_adapter):
    folder = new_adapter("plain", None, YES_NO)
    backend.add_adapter(MelleasCustomAdapter(model_id=str(folder), base_model_name=BASE))
    assert backend.list_adapters() == ["plain_lora"] and works(backend, "plain")


def test_melleas_own_class_by_a_folder_without_io_yaml(new_adapter):
    folder = new_adapter("bare")
    with pytest.raises(AdapterError, match=r"io\.yaml"):
        MelleasCustomAdapter(model_id=str(folder), base_model_name=BASE)
    assert "bare" not in catalog._INTRINSICS_CATALOG


@pytest.mark.parametrize("kind", ["alora", "lora"])
def test_a_collection_on_disk(backend, new_adapter, tmp_path, kind):
    folder = new_adapter("x", OPENING if kind == "alora" else None, YES_NO)
    shutil.copytree(folder, tmp_path / "many" / "fn" / BASE / kind)
    adapter = MelleasCustomAdapter(model_id=str(tmp_path / "many"), intrinsic_name="fn", base_model_name=BASE)
    backend.add_adapter(adapter)
    assert backend.list_adapters() == [f"fn_{kind}"] and works(backend, "fn")


def test_a_repository_of_the_hub(new_backend, checker, hub):
    into_hub(hub, "someone/checker", {"": checker, f"checker/{BASE}/alora": checker})
    mine = CustomIntrinsicAdapter(model_id="someone/checker", base_model_name=BASE)
    for given in ("someone/checker", mine, MelleasCustomAdapter(model_id="someone/checker", base_model_name=BASE)):
        backend = new_backend()
        backend.add_adapter(given)
        assert backend.list_adapters() == ["checker_alora"] and works(backend, "checker")


def test_an_adapter_of_melleas_catalog_with_a_configuration_of_ones_own(backend, checker, hub):
    entry = catalog._INTRINSICS_CATALOG["requirement-check"]
    into_hub(hub, entry.repo_id, {f"requirement-check/{BASE}/alora": checker}, entry.revision)
    backend.add_adapter(IntrinsicAdapter("requirement-check", config_dict=YES_NO))
    assert works(backend, "requirement-check")


def test_resolve_adapter_finds_fetches_and_says_what_is_missing(backend, new_adapter, hub):
    entry = catalog._INTRINSICS_CATALOG["requirement-check"]
    folder = new_adapter("x", None, YES_NO)
    into_hub(hub, entry.repo_id, {f"requirement-check/{BASE}/lora": folder}, entry.revision)
    adapter = backend.resolve_adapter("requirement-check")
    assert backend.resolve_adapter("requirement-check") is adapter
    assert backend.list_adapters() == ["requirement-check_lora"] and works(backend, "requirement-check")
    with pytest.raises(ValueError, match="Unknown intrinsic"):
        backend.resolve_adapter("no such function")


def test_a_function_of_melleas_library_runs(backend, new_adapter, hub):
    from mellea.stdlib.components.intrinsic import core

    entry = catalog._INTRINSICS_CATALOG["requirement-check"]
    into_hub(hub, entry.repo_id, {f"requirement-check/{BASE}/lora": new_adapter("x", None, YES_NO)}, entry.revision)
    session = MelleaSession(backend, ctx=ChatContext())
    session.chat("The pump leaks.")
    assert 0 <= core.requirement_check(session.ctx, backend, "It is short.") <= 1


def test_an_adapter_trained_by_mellea_names_its_function_for_an_intrinsic(backend, labels):
    backend.add_adapter(labels)
    session = MelleaSession(backend, ctx=ChatContext())
    session.chat("The pump leaks.")
    action = Intrinsic("my_adapter", adapter_types=BOTH)
    assert json.loads(session.act(action, strategy=None).value)["label"] in ("no_failure", "overheating", "seal leak")


# --- names --------------------------------------------------------------------------------------------------------


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
