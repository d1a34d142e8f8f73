"""The backend and the adapters it loads."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from alorakit.bindings.session import CustomIntrinsicAdapter, EngineBackend
from alorakit.engine.errors import AdapterError, ConfigError
from alorakit.engine.manifest import Manifest

FAILURES = Manifest(labels=("bearing", "no_failure"), invocation="@")


def adapter_folder(folder: Path) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({}))
    (folder / "alorakit.json").write_text(FAILURES.to_json())
    return folder


def test_add_adapter_from_a_folder(fake_engine: Any, tmp_path: Path) -> None:
    engine = fake_engine()
    m = engine.session()
    folder = str(adapter_folder(tmp_path / "my_adapter"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        m.backend.add_adapter(CustomIntrinsicAdapter(model_id=folder, base_model_name="smollm2-135m-instruct"))
    m.backend.add_adapter(
        CustomIntrinsicAdapter(model_id=folder, intrinsic_name="other", base_model_name="x/SmolLM2-135M-Instruct")
    )
    assert m.backend.list_adapters() == ["my_adapter", "other"]


def test_another_base_model_warns(fake_engine: Any, tmp_path: Path) -> None:
    backend = fake_engine().session().backend
    adapter = CustomIntrinsicAdapter(model_id=str(adapter_folder(tmp_path / "a")), base_model_name="granite-3b")
    with pytest.warns(UserWarning, match="granite-3b.*SmolLM2-135M-Instruct"):
        backend.add_adapter(adapter)


@pytest.mark.parametrize(
    "model_id", ["./nowhere/at-all", "/nowhere", "nowhere", "a/b/c", "~nouser-of-this-name/x", "x" * 300]
)
def test_a_folder_that_is_not_there(fake_engine: Any, model_id: str) -> None:
    adapter = CustomIntrinsicAdapter(model_id=model_id, base_model_name="SmolLM2-135M-Instruct")
    with pytest.raises(AdapterError, match=r"is not a folder|not a usable path"):
        fake_engine().session().backend.add_adapter(adapter)


@pytest.mark.parametrize(
    "changes",
    [{"base_model_name": None}, {"model_id": None}, {"intrinsic_name": 5}],
    ids=lambda changes: next(iter(changes)),
)
def test_an_adapter_of_the_wrong_kind(fake_engine: Any, changes: dict[str, Any]) -> None:
    with pytest.raises(AdapterError, match=next(iter(changes))):
        CustomIntrinsicAdapter(**{"model_id": "a", "base_model_name": "b", **changes})
    with pytest.raises(AdapterError, match="adapter must be CustomIntrinsicAdapter, found str"):
        fake_engine().session().backend.add_adapter("folder")


def test_a_hub_id_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    from alorakit.engine import hub
    from alorakit.engine.errors import ModelNotFoundError

    def unreachable(*args: object) -> Path:
        raise ModelNotFoundError("no network")

    monkeypatch.setattr(hub, "hub_folder", unreachable)
    adapter = CustomIntrinsicAdapter(model_id="someone/adapter", base_model_name="x")
    assert adapter.name == "adapter"
    with pytest.raises(AdapterError, match=r"'someone/adapter'.*\(no network\)"):
        adapter.folder()


def test_backend_wants_a_model_or_an_engine(fake_engine: Any) -> None:
    with pytest.raises(ConfigError, match="one of model_id and engine"):
        EngineBackend()
    with pytest.raises(ConfigError, match="one of model_id and engine"):
        EngineBackend("model", engine=fake_engine())
    with pytest.raises(ConfigError, match="engine=5"):
        EngineBackend(engine=5)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="block_size"):
        EngineBackend(engine=fake_engine(), block_size=4)


def test_closing_leaves_a_given_engine_open(fake_engine: Any) -> None:
    engine = fake_engine()
    engine.session().backend.close()
    assert not engine.closed
