"""The programs of the how-tos run as they stand there, on a tiny random model in the place of the one they name."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from alorakit.bindings.cli.main import m_app
from alorakit.engine.layouts import DEFAULT_INVOCATION
from alorakit.engine.manifest import Manifest
from alorakit.engine.tokenizer import Tokenizer
from docs import pages
from tests.bindings import hub_folders
from tests.engine.folders import make_adapter, make_model
from tests.training.mellea_reader import FOLDER

# The folder has the model's name, so that programs find it without a change.
MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
HOWTO = pages.ROOT / "docs" / "howto"
ADAPTERS = {
    "my_adapter": (DEFAULT_INVOCATION, Manifest(labels=("no_failure", "overheating", "seal leak"))),
    "urgency": ("<|start_of_role|>urgency<|end_of_role|>", Manifest(labels=("yes", "no"))),
}


def runnable(page: Path) -> list[pages.Block]:
    return [block for block in pages.blocks(page.read_text(encoding="utf-8")) if block.mark.split()[:1] == ["run"]]


PAGES = [page for page in sorted(HOWTO.glob("*.md")) if runnable(page)]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_dir: Path) -> Path:
    """A folder with the model, as programs name it, and the adapters."""
    folder = tmp_path_factory.mktemp("shelf")
    (folder / MODEL).parent.mkdir()
    model = make_model(folder / MODEL, tiny_tokenizer_dir, max_position_embeddings=4096)
    tokenizer = Tokenizer.from_pretrained(model)
    (folder / "checkpoints").mkdir()
    for seed, (name, (invocation, manifest)) in enumerate(ADAPTERS.items()):
        ids = tokenizer.encode(invocation, add_special_tokens=False)
        made = make_adapter(folder / "checkpoints" / name, model, ["q_proj", "v_proj"], 4, ids, seed)
        (made / "alorakit.json").write_text(manifest.to_json(), encoding="utf-8")
    return folder


@pytest.fixture
def desk(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder of a program: the model, and adapters of its own."""
    (tmp_path / "HuggingFaceTB").symlink_to(shelf / "HuggingFaceTB")
    (tmp_path / "checkpoints").mkdir()
    for adapter in (shelf / "checkpoints").iterdir():
        (tmp_path / "checkpoints" / adapter.name).symlink_to(adapter)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(page: Path) -> dict[str, Any]:
    """Run a page's blocks in order, Python in one namespace; returns it."""
    namespace: dict[str, Any] = {"__name__": "howto"}
    for block in runnable(page):
        if block.language == "python":
            exec(compile(block.text, str(page), "exec"), namespace)
            continue
        for program, *arguments in pages.commands(block.text):
            assert program == "m"
            result = CliRunner().invoke(m_app(), arguments)
            assert result.exit_code == 0, result.output
    return namespace


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:Capability:UserWarning")
def test_a_page(page: Path, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if any("mellea" in block.mark for block in runnable(page)):
        if (FOLDER / "mellea").is_dir() and str(FOLDER) not in sys.path:
            sys.path.append(str(FOLDER))
        if importlib.util.find_spec("mellea") is None:
            pytest.skip("Mellea is not installed")
    if page.stem == "hub":  # with all the files that training writes
        (desk / "checkpoints" / "my_adapter").unlink()
        hub_folders.make_adapter(desk / "checkpoints" / "my_adapter", base=MODEL)
    EXPECTED.get(page.stem, lambda names, said: None)(run(page), capsys.readouterr().out)


def shares_the_context(names: dict[str, Any], said: str) -> None:
    for answer in names["answers"]:
        assert answer.usage.prompt_tokens - answer.usage.cached_tokens < 40 < len(names["context"])
    assert "['failure']" in said


def ends_each_request(names: dict[str, Any], said: str) -> None:
    assert sorted(line.split()[0] for line in said.splitlines() if "Usage" in line) == ["base", "failure", "patient"]
    assert "patient abort" in said
    assert len(names["texts"]) == 3


def fits_what_was_asked(names: dict[str, Any], said: str) -> None:
    assert names["choice"].text in ("yes", "no", "not sure")
    assert names["report"].text.startswith("{")


def names_the_errors(names: dict[str, Any], said: str) -> None:
    kinds = [line.split()[0] for line in said.splitlines()]
    assert kinds == ["RequestError", "MissingInvocationError", "AdapterNotFoundError", "RequestError"]


def reports_checks(names: dict[str, Any], said: str) -> None:
    assert any(attempt.checks for attempt in names["result"].sample_generations)


def trains(names: dict[str, Any], said: str) -> None:
    assert names["report"].path.name == "again"
    assert json.loads(Path("checkpoints/notes/alorakit.json").read_text(encoding="utf-8"))["fail_labels"] == [
        "no_failure"
    ]
    assert {"eval.json", "eval.png"} <= {path.name for path in Path("eval-notes").iterdir()}


def decides_with_the_file(names: dict[str, Any], said: str) -> None:
    assert names["info"].manifest is None
    assert bool(names["verdict"]) == (names["verdict"].label == "no")


EXPECTED = {
    "several-adapters": shares_the_context,
    "own-loop": ends_each_request,
    "structured-output": fits_what_was_asked,
    "limits-and-errors": names_the_errors,
    "check-while-writing": reports_checks,
    "train": trains,
    "adapter-from-elsewhere": decides_with_the_file,
}


def test_pages_that_are_expected_exist() -> None:
    assert EXPECTED.keys() <= {page.stem for page in PAGES}


def test_the_map_of_the_howtos_names_them_all() -> None:
    linked = set(pages.links((HOWTO / "README.md").read_text(encoding="utf-8")))
    assert {page.name for page in HOWTO.glob("*.md")} - {"README.md"} <= linked
