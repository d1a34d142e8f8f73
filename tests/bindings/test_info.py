"""``m alora info``: what is said of sound, foreign and refused adapter folders."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from alorakit.bindings.cli.main import m_app
from tests.bindings.hub_fixtures import hub as hub  # the fixture
from tests.bindings.hub_folders import BASE, INVOCATION, contents, make_adapter
from tests.hub_state import Hub

RUN = CliRunner()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_adapter(tmp_path / "my_adapter")


def info(name: Path | str, code: int = 0) -> Any:
    result = RUN.invoke(m_app(), ["alora", "info", str(name), "--json"])
    assert result.exit_code == code, result.output
    return result.stderr if code else json.loads(result.stdout)


def edit(folder: Path, **changes: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_an_adapter_of_ours(folder: Path) -> None:
    found = info(folder)
    assert (found["kind"], found["base_model"], found["ranks"], found["scalings"]) == ("alora", BASE, [4], [8.0])
    assert found["targets"] == ["q_proj", "k_proj", "v_proj"] and found["layers"] == 2
    assert found["parameters"] == 2 * (4 * 16 + 16 * 4 + 2 * (4 * 16 + 8 * 4))
    assert found["invocation_text"] == INVOCATION and found["invocation_tokens"] == [5, 6, 7]
    assert found["manifest"]["labels"] == ["no_failure", "overheating"]
    assert found["usable"] and found["problems"] == []
    text = RUN.invoke(m_app(), ["alora", "info", str(folder)]).stdout
    for part in ("activated LoRA", INVOCATION, BASE, "q_proj, k_proj, v_proj in 2 layers", "no_failure, overheating"):
        assert part in text


def test_the_kind_is_that_of_the_value(tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "x", "lora")
    assert "alora_invocation_tokens" in json.loads((folder / "adapter_config.json").read_text())
    assert info(folder)["kind"] == "lora"


def test_a_foreign_adapters_invocation_is_read_by_its_base(folder: Path, tiny_tokenizer_dir: Path) -> None:
    (folder / "alorakit.json").unlink()
    edit(folder, base_model_name_or_path="org/not-here")
    assert info(folder)["invocation_text"] is None
    edit(folder, base_model_name_or_path=str(tiny_tokenizer_dir), alora_invocation_tokens=[300, 301])
    assert info(folder)["invocation_text"]


def test_all_that_is_not_supported_is_named(folder: Path) -> None:
    edit(folder, use_dora=True, bias="all", modules_to_save=["lm_head"])
    found = info(folder)
    assert not found["usable"]
    assert [sum(name in problem for problem in found["problems"]) for name in ("use_dora", "bias=", "modules_to")] == [
        1, 1, 1,
    ]  # fmt: skip
    assert (found["ranks"], found["kind"]) == ([4], "alora")
    assert "use_dora" in RUN.invoke(m_app(), ["alora", "info", str(folder)]).stdout


def test_broken_files_are_problems(folder: Path) -> None:
    weights = folder / "adapter_model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes((2**60).to_bytes(8, "little") + content[8:])
    assert "not safetensors" in info(folder)["problems"][0]
    weights.unlink()
    (folder / "adapter_model.bin").write_bytes(b"x")
    assert "pickled .bin" in info(folder)["problems"][0]
    weights.write_bytes(content)
    (folder / "alorakit.json").write_text("{")
    assert "alorakit.json" in info(folder)["problems"][0]
    edit(folder, target_modules=["q_proj"])
    assert any("unexpected" in problem for problem in info(folder)["problems"])


def test_what_is_no_adapter(tmp_path: Path) -> None:
    assert "is not a folder" in info(tmp_path / "gone", code=2)
    assert "no adapter_config.json" in info(tmp_path, code=2)
    (tmp_path / "adapter_config.json").write_text("[")
    assert "not readable as JSON" in info(tmp_path, code=2)


def test_an_adapter_of_the_hub(hub: Hub, folder: Path) -> None:
    hub.add("org/x", {f"check/base/alora/{name}": data for name, data in contents(folder).items()})
    assert info("org/x/check/base/alora")["kind"] == "alora"
    assert "give org/x/check/base/alora" in info("org/x", code=2)


def test_it_needs_no_torch(folder: Path) -> None:
    code = (
        f"import sys; sys.argv = ['m', 'alora', 'info', {str(folder)!r}]\n"
        "from alorakit.bindings.cli import main\n"
        "try:\n    main.m()\nexcept SystemExit as exc:\n    assert not exc.code\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
