"""Models and adapters fetched from a hub on loopback: revisions, folders of a collection, the cache, no pickles."""

import json
from pathlib import Path

import pytest
from huggingface_hub import constants

from alorakit.engine.adapter_loading import check_adapter
from alorakit.engine.errors import AdapterError, ModelNotFoundError
from alorakit.engine.hub import HubName, parse_name
from alorakit.engine.pretrained import local_model, resolve_adapter, resolve_model
from tests.bindings.hub_fixtures import hub as hub  # the fixture
from tests.bindings.hub_folders import contents, make_adapter
from tests.hub_state import Fault, Hub

MODEL = {"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": b"weights", "pytorch_model.bin": b"pickle"}


def adapter(tmp_path: Path, seed: int = 0) -> dict[str, bytes]:
    return contents(make_adapter(tmp_path / f"adapter-{seed}", seed=seed))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("org/name", HubName("org/name")),
        ("name", HubName("name")),
        ("org/name@v1", HubName("org/name", "", "v1")),
        ("org/name@refs/pr/1", HubName("org/name", "", "refs/pr/1")),
        ("org/name/check/base/alora@v1", HubName("org/name", "check/base/alora", "v1")),
        *(
            (text, None)
            for text in ("", "@v1", "org/name@", "org/name/../x", "org/name//x", "/a/b", "a/b@x/../y", "./a")
        ),
    ],
)
def test_names(text: str, wanted: HubName | None) -> None:
    assert parse_name(text) == wanted


def test_a_revision_is_what_it_was(hub: Hub, tmp_path: Path) -> None:
    first = hub.add("org/x", adapter(tmp_path, 0))
    hub.add("org/x", adapter(tmp_path, 1), branch="v2")
    hub.add("org/x", adapter(tmp_path, 2))
    digests = {
        name: check_adapter(resolve_adapter(f"org/x{name}")).info.digest for name in ("", "@v2", f"@{first.oid}")
    }
    for seed, name in ((2, ""), (1, "@v2"), (0, f"@{first.oid}")):
        assert digests[name] == check_adapter(tmp_path / f"adapter-{seed}").info.digest
    assert resolve_adapter("org/x", "v2") == resolve_adapter("org/x@v2")
    with pytest.raises(AdapterError, match="names one revision"):
        resolve_adapter("org/x@v2", "v3")
    with pytest.raises(AdapterError, match="has no revision 'v9'"):
        resolve_adapter("org/x@v9")


def test_an_adapter_in_a_collection(hub: Hub, tmp_path: Path) -> None:
    inside = "requirement-check/Base/alora"
    files = {f"{inside}/{name}": data for name, data in adapter(tmp_path).items()}
    hub.add("org/x", files | {"other/Base/lora/adapter_config.json": b"{}", "README.md": b"x"})
    folder = resolve_adapter(f"org/x/{inside}")
    assert check_adapter(folder).info.kind == "alora"
    fetched = {request for request in hub.requests if "/resolve/" in request}
    assert all(f"/{inside}/" in request for request in fetched)
    with pytest.raises(
        AdapterError, match=r"has adapters in other/Base/lora, requirement-check/Base/alora: give org/x/"
    ):
        resolve_adapter("org/x")
    with pytest.raises(AdapterError, match=r"has no adapter_config.json and no adapter_model.safetensors in gone"):
        resolve_adapter("org/x/gone")


def test_pickles_are_never_fetched(hub: Hub, tmp_path: Path) -> None:
    files = adapter(tmp_path)
    hub.add("org/model", MODEL)
    hub.add("org/x", files | {"adapter_model.bin": b"pickle", "handler.py": b"code"})
    hub.add("org/pickled", {**files, "adapter_model.safetensors": None, "adapter_model.bin": b"pickle"})  # type: ignore[dict-item]
    resolve_model("org/model")
    resolve_adapter("org/x")
    with pytest.raises(AdapterError, match=r"no adapter_model.safetensors"):
        resolve_adapter("org/pickled")
    assert not [request for request in hub.requests if request.endswith((".bin", ".py"))]


def test_what_is_cached_needs_no_hub(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("org/model", MODEL)
    hub.add("org/x", adapter(tmp_path))
    assert local_model("org/model") is None
    model, folder = resolve_model("org/model@main"), resolve_adapter("org/x")
    assert model.name == "org/model"
    asked = len(hub.requests)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert resolve_model("org/model").path == model.path == local_model("org/model")
    assert resolve_adapter("org/x@main") == folder
    with pytest.raises(AdapterError, match="not in the local cache, and HF_HUB_OFFLINE is set"):
        resolve_adapter("org/x@v2")
    with pytest.raises(ModelNotFoundError, match="HF_HUB_OFFLINE is set"):
        resolve_model("org/other")
    assert len(hub.requests) == asked


@pytest.mark.parametrize("kind", [500, "cut", "half"])
def test_a_download_that_breaks_is_not_taken_for_whole(hub: Hub, tmp_path: Path, kind: int | str) -> None:
    files = adapter(tmp_path)
    hub.add("org/x", files)
    hub.faults.append(Fault("GET /org/x/resolve/.*safetensors", kind, times=99))
    with pytest.raises(AdapterError, match="not an adapter that the Hub has"):
        resolve_adapter("org/x")
    assert hub.faults[0].times < 99
    hub.faults.clear()
    folder = resolve_adapter("org/x")
    assert (folder / "adapter_model.safetensors").read_bytes() == files["adapter_model.safetensors"]


def test_a_private_repository(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("org/x", adapter(tmp_path), private=True)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(AdapterError, match="or it is private: then set HF_TOKEN"):
        resolve_adapter("org/x")
    monkeypatch.setenv("HF_TOKEN", "hf_nonsense")
    with pytest.raises(AdapterError, match="401: Invalid credentials"):
        resolve_adapter("org/x")
    monkeypatch.setenv("HF_TOKEN", "hf_read")
    assert json.loads((resolve_adapter("org/x") / "alorakit.json").read_text())["labels"]


def test_names_that_are_no_adapter(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for name in (tmp_path / "file", tmp_path / "gone", "my_adapter", "a" * 300, "~nobody-here/x", "org/name@"):
        with pytest.raises(AdapterError, match=r"is not a folder|not a usable path"):
            resolve_adapter(name)
