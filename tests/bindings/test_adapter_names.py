"""Adapters by folder, by ``name=DIR`` and by their name on the Hub, on the command line and in sessions."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from alorakit import CustomIntrinsicAdapter, Engine, EngineBackend
from alorakit.bindings.adapter_names import adapter_name
from alorakit.bindings.cli.adapters import split_name
from alorakit.bindings.cli.main import m_app
from alorakit.engine.errors import AdapterError, ConfigError
from tests.bindings.hub_fixtures import hub as hub  # the fixture
from tests.bindings.hub_folders import contents
from tests.hub_state import Hub

INSIDE = "parts-check/Base/alora"


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("./checkpoints/my_adapter", "my_adapter"),
        ("checkpoints/my_adapter/", "my_adapter"),
        ("org/name", "name"),
        ("org/name@v1", "name"),
        ("org/name@refs/pr/1", "name"),
        ("org/name/folder@v1", "folder"),
        (f"org/name/{INSIDE}", "parts-check"),
        (f"org/name/{INSIDE}@v1", "parts-check"),
        ("/a/b/c/d/alora", "alora"),
    ],
)
def test_what_adapters_are_called(place: str, name: str) -> None:
    assert adapter_name(place) == name


def test_folders_are_called_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a@b=c"
    folder.mkdir()
    assert adapter_name(folder) == "a@b=c"
    assert split_name(str(folder)) == ("a@b=c", str(folder))
    assert split_name(f"x={folder}") == ("x", str(folder))
    monkeypatch.chdir(folder)
    assert adapter_name(".") == "a@b=c"
    for text in ("=x", "x=", " =x", ""):
        with pytest.raises(ConfigError, match="neither of them empty"):
            split_name(text)


@pytest.fixture
def collection(hub: Hub, served_folder: Path) -> Hub:
    """One adapter at ``org/one``, the same on a branch of a collection."""
    files = contents(served_folder / "parts")
    hub.add("org/one", files)
    hub.add("org/all", {f"{INSIDE}/{name}": data for name, data in files.items()}, branch="v1")
    return hub


def test_sessions_take_names_of_the_hub(collection: Hub, engine: Engine) -> None:
    backend = EngineBackend(engine=engine)
    for place, name in (("org/one", "one"), (f"org/all/{INSIDE}@v1", "parts-check")):
        adapter = CustomIntrinsicAdapter(model_id=place, base_model_name=engine.model_name)
        backend.add_adapter(adapter)
        assert engine.adapters[name].digest == engine.adapters["parts"].digest
    with pytest.raises(AdapterError, match="has no revision 'v9'"):
        backend.add_adapter(CustomIntrinsicAdapter(model_id="org/one@v9", base_model_name=engine.model_name))


def test_eval_takes_names_of_the_hub(
    collection: Hub, served_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"item": f"The pump vibrates at {n} RPM.", "label": ("rod", "pump")[n % 2]} for n in range(4)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [
        "alora", "eval", "rows.jsonl", "--adapter", f"org/all/{INSIDE}@v1", "--against", "org/one", "--basemodel",
        str(served_folder / "model"), "--device", "cpu", "--dtype", "float32", "--json",
    ]  # fmt: skip
    result = CliRunner().invoke(m_app(), command)
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    models = found["models"]
    assert (models["adapter"]["name"], models["against"]["name"]) == ("parts-check", "one")
    assert models["adapter"]["confusion"] == models["against"]["confusion"]
    assert json.loads((tmp_path / "eval-parts-check" / "eval.json").read_text(encoding="utf-8")) == found


def test_check_and_generate_take_names_of_the_hub(collection: Hub, served_folder: Path) -> None:
    model = str(served_folder / "model")
    for command in (
        ["check", f"org/all/{INSIDE}@v1", "The pump vibrates.", "--basemodel", model, "--device", "cpu"],
        ["generate", model, "Hi", "--adapter", f"org/all/{INSIDE}@v1", "--max-tokens", "2", "--device", "cpu"],
    ):
        result = CliRunner().invoke(m_app(), ["alora", *command, "--json"])
        assert result.exit_code == 0, result.output
        found = json.loads(result.stdout)
        assert found.get("label") in ("rod", "pump", "none") or found["adapter"] == "parts-check"
