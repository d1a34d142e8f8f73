"""``m alora add-readme``: the card made again, and what somebody wrote kept."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from alorakit.bindings.cli.main import m_app
from alorakit.engine.errors import TrainingError
from alorakit.training.card_mark import is_untouched
from tests.bindings.hub_folders import BASE, contents, make_adapter

RUN = CliRunner()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_adapter(tmp_path / "my_adapter")


def add_readme(folder: Path, *more: str, code: int = 0, answer: str | None = None) -> Any:
    result = RUN.invoke(m_app(), ["alora", "add-readme", str(folder), *more], input=answer)
    assert result.exit_code == code, result.output
    return result


def card(folder: Path) -> str:
    return (folder / "README.md").read_text(encoding="utf-8")


def test_a_card_is_made_from_what_lies_there(folder: Path) -> None:
    (folder / "README.md").unlink()
    before = contents(folder)
    add_readme(folder)
    text = card(folder)
    assert is_untouched(text) and yaml.safe_load(text.split("---\n")[1])["base_model"] == BASE
    for part in ("`no_failure`, `overheating`", "8 trained on, 2 held out", "| accuracy | 0.9000 | 0.5000 |", "`abab"):
        assert part in text
    assert {name: data for name, data in contents(folder).items() if name != "README.md"} == before
    add_readme(folder)  # a generated card is replaced without ado
    assert card(folder) == text


def test_without_training_json_no_setting_is_made_up(folder: Path) -> None:
    (folder / "training.json").unlink()
    (folder / "training.png").unlink()
    add_readme(folder, "--basemodel", "org/other")
    text = card(folder)
    assert "| r | `4` |" in text and "`no_failure`" in text
    assert "epochs" not in text and "training.png" not in text and "training.json" not in text
    assert yaml.safe_load(text.split("---\n")[1])["base_model"] == "org/other"


@pytest.mark.parametrize("kind", ["alora", "lora"])
def test_an_adapter_from_elsewhere(tmp_path: Path, kind: str) -> None:
    folder = make_adapter(tmp_path / "x", kind)
    for name in ("alorakit.json", "training.json", "README.md", "io.yaml"):
        (folder / name).unlink()
    add_readme(folder)
    text = card(folder)
    assert ("`[5, 6, 7]`" in text) == (kind == "alora")
    assert yaml.safe_load(text.split("---\n")[1])["tags"][0] == kind
    assert "epochs" not in text


def test_what_somebody_wrote_is_not_lost(folder: Path) -> None:
    own = card(folder).replace("# Activated LoRA", "# My own words")
    (folder / "README.md").write_text(own, encoding="utf-8")
    result = add_readme(folder, code=2)
    assert "--force" in result.stderr and card(folder) == own
    add_readme(folder, "--force")
    assert is_untouched(card(folder))
    assert (folder / "README.md.bak").read_text(encoding="utf-8") == own
    (folder / "README.md").write_text("more", encoding="utf-8")
    assert "would be lost" in add_readme(folder, "--force", code=2).stderr
    assert card(folder) == "more"


def test_asking_and_looking(folder: Path) -> None:
    (folder / "README.md").unlink()
    assert "# Activated LoRA" in add_readme(folder, "--dry-run").stdout
    assert "# Activated LoRA" in add_readme(folder, "--ask", answer="n\n", code=1).stdout
    assert not (folder / "README.md").exists()
    add_readme(folder, "--ask", answer="y\n")
    assert is_untouched(card(folder))


def test_bad_folders(folder: Path, tmp_path: Path) -> None:
    assert "is not a folder" in add_readme(tmp_path / "gone", code=2).stderr
    assert "no adapter_config.json" in add_readme(tmp_path, code=2).stderr
    for text in ("[]", "{", '{"config": 1}', '{"config": {"epochs": 0}}', '{"config": {"surprise": 0}}'):
        (folder / "training.json").write_text(text)
        assert "training.json" in add_readme(folder, code=2).stderr


def test_a_card_is_there_whatever_happens(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from alorakit.bindings.cli import add_readme as module

    write = module.write_whole

    def full(path: Path, content: bytes, remedy: str) -> None:
        if path.name == "README.md":
            raise TrainingError(f"{path}: cannot be written (No space left on device); {remedy}")
        write(path, content, remedy)

    (folder / "README.md").write_text("mine", encoding="utf-8")
    with monkeypatch.context() as patch:
        patch.setattr(module, "write_whole", full)
        assert "No space" in add_readme(folder, "--force", code=2).stderr
    assert card(folder) == "mine"
    (folder / "README.md.bak").unlink()
    (folder / "README.md.bak").symlink_to(folder / "gone")
    assert "would be lost" in add_readme(folder, "--force", code=2).stderr
    (folder / "README.md").unlink()
    (folder / "README.md").mkdir()
    assert "is not a file" in add_readme(folder, code=2).stderr
