"""Shell completion, asked for as the shells do it: by environment variables of the command's name."""

import os
import subprocess
import sys

import pytest

from tests.training.mellea_reader import mellea_folder


def ask(entry: str, shell: str, line: str, **env: str) -> subprocess.CompletedProcess[str]:
    """What a shell gets for a line whose last word is being typed."""
    words = line.split(" ")
    code = f"import sys; sys.argv = [{entry!r}]\nfrom alorakit.bindings.cli.main import {entry}; {entry}()"
    asked = {
        f"_{entry.upper()}_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": "\n".join(words),
        "COMP_CWORD": str(len(words) - 1),
        "_TYPER_COMPLETE_ARGS": line,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        **env,
    }
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **asked}, capture_output=True, text=True, check=False
    )


def words(entry: str, shell: str, line: str) -> set[str]:
    done = ask(entry, shell, line)
    assert done.stderr == ""
    separator = {"bash": None, "fish": "\t", "zsh": '":"'}[shell]
    found = done.stdout.removeprefix("_arguments '*: :((").removesuffix("))'\n").splitlines()
    return {(text.split(separator)[0] if separator else text).strip('"') for text in found}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_commands_and_options(shell: str) -> None:
    assert words("m", shell, "m ") >= {"alora"}
    assert words("m", shell, "m alora i") == {"info", "import-gguf"}
    assert words("alorakit", shell, "alorakit i") == {"info", "import-gguf"}
    assert words("m", shell, "m alora train --ep") == {"--epochs"}


def test_folders_are_left_to_the_shell() -> None:
    """No words: bash and zsh then complete paths, and fish does where the command says that it has none."""
    for line in ("m alora check ./chec", "m alora train --outfile ./chec", "m alora chat m --adapter ./chec"):
        assert ask("m", "bash", line).stdout.strip() == ""
        assert ask("m", "zsh", line).stdout.strip() == "_files"
        assert ask("m", "fish", line, _TYPER_COMPLETE_FISH_ACTION="is-args").returncode == 1


def test_mellea_commands_complete() -> None:
    mellea = f"{os.environ.get('PYTHONPATH', '')}{os.pathsep}{mellea_folder()}"
    assert set(ask("m", "bash", "m ", PYTHONPATH=mellea).stdout.split()) == {
        "alora", "serve", "decompose", "eval", "fix"
    }  # fmt: skip
    assert ask("m", "bash", "m serve --po", PYTHONPATH=mellea).stdout.split() == ["--port"]


@pytest.mark.parametrize("entry", ["m", "alorakit"])
@pytest.mark.parametrize(("shell", "script"), [
    ("bash", "complete -o default -F _{0}_completion {0}"),
    ("zsh", "#compdef {0}"),
    ("fish", "complete --command {0}"),
])  # fmt: skip
def test_the_script_is_shown(entry: str, shell: str, script: str) -> None:
    code = (
        f"import sys; sys.argv = [{entry!r}, '--show-completion', {shell!r}]\n"
        f"from alorakit.bindings.cli.main import {entry}; {entry}()"
    )
    env = {**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert script.format(entry) in done.stdout
