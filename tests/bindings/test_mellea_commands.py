"""``m`` beside Mellea's own commands: with the real Mellea, with one that cannot be imported, and without."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.mellea_reader import mellea_folder

M = "import sys; sys.argv[0] = 'm'\nfrom alorakit.bindings.cli.main import m\n"
RUN = f"{M}m()"
# What is imported is told on stderr, after the command has ended.
WATCHED = (
    f"{M}try:\n    m()\nfinally:\n"
    "    print(*sorted({'torch', 'cli', 'mellea', 'numpy'} & set(sys.modules)), file=sys.stderr)"
)


def m(*args: str, code: int = 0, path: Path | None = None, program: str = RUN) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "COLUMNS": "200"}
    if path is not None:
        env["PYTHONPATH"] = f"{env.get('PYTHONPATH', '')}{os.pathsep}{path}"
    done = subprocess.run([sys.executable, "-c", program, *args], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done


def packages(folder: Path, cli: str) -> Path:
    """A Mellea whose command line is ``cli``."""
    for name, text in {"mellea/__init__.py": "", "cli/__init__.py": "", "cli/m.py": cli}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_the_real_mellea_keeps_its_commands() -> None:
    mellea = mellea_folder()
    listed = m("--help", path=mellea, program=WATCHED)
    for name in ("alora", "serve", "decompose", "eval", "fix"):
        assert f"\n  {name} " in listed.stdout, listed.stdout
    assert "activated LoRA" in listed.stdout
    assert listed.stderr.split() == ["cli"]
    for args, said in (
        (["serve"], "Serve a Mellea program as an OpenAI-compatible"),
        (["decompose"], "decompos"),
        (["eval", "run"], "judge"),
        (["fix"], "API changes"),
    ):
        assert said in m(*args, "--help", path=mellea).stdout


def test_below_alora_all_is_ours() -> None:
    ours = m("alora", "train", "--help", path=mellea_folder(), program=WATCHED)
    assert "--prefix-memory" in ours.stdout
    assert ours.stderr.split() == []


@pytest.mark.parametrize(
    "cli", ["import no_such_module", "raise RuntimeError('broken\\nin two lines')", "exit(3)", "x = 1"]
)
def test_a_mellea_that_cannot_be_imported(tmp_path: Path, cli: str) -> None:
    folder = packages(tmp_path, cli)
    listed = m("--help", path=folder)
    assert "alora" in listed.stdout and "serve" not in listed.stdout and listed.stderr == ""
    told = m("serve", "app.py", path=folder, code=2)
    assert told.stderr.startswith("warning: mellea is installed, but its commands cannot be imported (")
    assert told.stderr.endswith("), so there is no 'm serve'\n") and told.stderr.count("\n") == 1
    assert m("alora", "info", "gone", path=folder, code=2).stderr.startswith("error: ")


def test_a_strangers_package_of_that_name_is_not_run(tmp_path: Path) -> None:
    mellea = packages(tmp_path / "a", "")
    stranger = packages(tmp_path / "b", "raise SystemExit('the stranger was run')")
    (stranger / "mellea" / "__init__.py").unlink()
    (stranger / "mellea").rmdir()
    for file in ("m.py", "__init__.py"):
        (mellea / "cli" / file).unlink()
    (mellea / "cli").rmdir()
    both = Path(f"{mellea}{os.pathsep}{stranger}")
    assert "its package 'cli' is not found there" in m("serve", path=both, code=2).stderr


def test_without_mellea() -> None:
    done = m("serve", "app.py", code=2, program=WATCHED)
    assert "No such command 'serve'" in done.stderr and "warning" not in done.stderr
    assert m("--help", program=WATCHED).stderr.split() == []
