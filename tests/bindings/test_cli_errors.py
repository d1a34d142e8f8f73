"""Every command ends bad input with one line and exit code 2, and says what it was under ``--debug``."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from alorakit.bindings.cli import errors
from alorakit.bindings.cli.main import COMMANDS, command_function, m_app
from tests.bindings.hub_folders import make_adapter

M = [sys.executable, "-c", "import sys; sys.argv[0] = 'm'; from alorakit.bindings.cli.main import m; m()", "alora"]
# What each command needs to come as far as a folder or file of its own.
NEEDS: dict[str, Callable[[str], list[str]]] = {
    "train": lambda path: [path, "--basemodel", path, "--outfile", "out"],
    "eval": lambda path: [path, "--adapter", path],
    "check": lambda path: [path, "text"],
    "generate": lambda path: [path, "Hi"],
    "chat": lambda path: [path],
    "serve": lambda path: [path, "--port", "0"],
    "info": lambda path: [path],
    "upload": lambda path: [path, "--name", "org/name"],
    "add-readme": lambda path: [path],
    "import-gguf": lambda path: [path, "out"],
    "bench": lambda path: ["quick", "--model", path],
    "demo": lambda path: ["--out", f"{path}/file/below"],
}


def spoiled(kind: str, folder: Path) -> str:
    """A path with nothing good at it."""
    path = folder / "given"
    if kind == "empty folder":
        path.mkdir()
    elif kind == "not JSON":
        path.mkdir()
        for name in ("adapter_config.json", "config.json", "alorakit.json"):
            (path / name).write_text("{nonsense")
    elif kind == "folders for files":
        for name in ("adapter_config.json", "config.json", "README.md"):
            (path / name).mkdir(parents=True)
    elif kind == "binary file":
        path.write_bytes(b"\xff\x00\xfe" * 100)
    return str(path)


def test_every_command_is_tried() -> None:
    assert set(NEEDS) == set(COMMANDS)


@pytest.mark.parametrize("kind", ["missing", "empty folder", "not JSON", "folders for files", "binary file"])
@pytest.mark.parametrize("name", [name for name in NEEDS if name != "demo"])
def test_one_line_and_exit_code_2(name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    args = ["alora", name, *NEEDS[name](spoiled(kind, tmp_path))]
    result = CliRunner().invoke(m_app(), args)
    assert result.exit_code == 2, result.output
    [line] = result.stderr.splitlines()
    assert line.startswith("error: ") and "given" in line
    assert not (tmp_path / "out").exists()
    debugged = CliRunner().invoke(m_app(), [*args, "--debug"])
    assert (debugged.exit_code, debugged.stderr.splitlines()[-1]) == (2, line)
    assert "Traceback" in debugged.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_unexpected_ends_with_1(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules[command_function(name).__module__]

    def fails(*args: object, **named: object) -> None:
        raise ZeroDivisionError("a bug")

    for found in ("existing", "resolve_adapter", "EngineConfig"):
        if hasattr(module, found):
            monkeypatch.setattr(module, found, fails)
    monkeypatch.setattr("alorakit.bindings.cli.train.run", fails)
    monkeypatch.setattr("alorakit.engine.pretrained.resolve_adapter", fails)
    monkeypatch.setattr("alorakit.bindings.cli.demo_run.run_demo", fails)
    monkeypatch.setattr("alorakit.bindings.server.run.serve", fails)
    result = CliRunner().invoke(m_app(), ["alora", name, *NEEDS[name](str(tmp_path))])
    assert result.exit_code == 1, result.output
    [line] = result.stderr.splitlines()
    assert line.startswith("unexpected error: ZeroDivisionError: a bug; run again with --debug")


def test_what_the_system_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    import typer

    for error, line in (
        (PermissionError(13, "Permission denied", "/x"), "error: /x: Permission denied; correct that"),
        (OSError(28, "No space left on device"), "error: the output: No space left on device; correct that"),
        (OSError(11, "Try again"), "unexpected error: BlockingIOError"),
    ):
        with pytest.raises(typer.Exit) as ended, errors.reported(debug=False):
            raise error
        assert ended.value.exit_code == (1 if line.startswith("unexpected") else 2)
        printed = capsys.readouterr().err
        assert printed.startswith(line) and printed.count("\n") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_behind_stdout(tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "adapter")
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*M, "info", adapter], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: the output: No space left on device; correct that and run it again\n"


def test_a_reader_that_goes_away(tmp_path: Path) -> None:
    """As ``m alora info DIR | head -1``: no traceback, no message."""
    adapter = make_adapter(tmp_path / "adapter")
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        done = subprocess.run([*M, "info", adapter], stdout=closed, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")


def test_results_alone_are_on_stdout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``--json`` of the commands that need no model; those of the others are tested with them."""
    figures: dict[str, Any] = {"rows": 1}

    def tour(out: Path, seed: int, retrain: bool) -> dict[str, Any]:
        print("== a tour")
        return figures

    monkeypatch.setattr("alorakit.bindings.cli.demo_run.run_demo", tour)
    adapter = make_adapter(tmp_path / "adapter")
    for args in (
        ["demo", "--out", str(tmp_path)],
        ["info", str(adapter)],
        ["add-readme", str(adapter)],
        ["add-readme", str(adapter), "--dry-run"],
        ["upload", str(adapter), "--name", "org/name", "--dry-run"],
        ["bench", "--list"],
    ):
        result = CliRunner().invoke(m_app(), ["alora", *args, "--json"])
        assert result.exit_code == 0, result.output
        found = json.loads(result.stdout)
        if args[0] == "demo":
            assert found == figures and result.stderr == "== a tour\n"
        if args[0] == "add-readme":
            assert found["written"] == ("--dry-run" not in args)
            assert found["card"] == (adapter / "README.md").read_text(encoding="utf-8")
