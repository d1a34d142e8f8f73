"""Every form in which an adapter can be given."""

import json
import os
import shutil
from pathlib import Path

import pytest
from mellea import MelleaSession
from mellea.backends.adapters import (
    AdapterType,
    IntrinsicAdapter,
    catalog,
)
from mellea.backends.adapters.adapter import CustomIntrinsicAdapter as MelleasCustomAdapter
from mellea.stdlib.components import Intrinsic
from mellea.stdlib.context import ChatContext

from alorakit import CustomIntrinsicAdapter
from alorakit.engine.errors import AdapterError
from tests.bindings.mellea.conftest import BASE, OPENING, YES_NO, works

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:Capability:UserWarning")
BOTH = (AdapterType.ALORA, AdapterType.LORA)


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
