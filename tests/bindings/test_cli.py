"""The command line: quick help, exit codes, one-line errors, and what training and checking are called with."""

import io
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from alorakit.bindings.cli import check as check_module
from alorakit.bindings.cli.errors import reported
from alorakit.bindings.cli.main import COMMANDS, alorakit_app, m_app
from alorakit.bindings.cli.progress import ProgressDisplay
from alorakit.bindings.cli.train import read_promptfile
from alorakit.engine.errors import AlorakitError, CheckError, ConfigError, DataError, TrainingError
from alorakit.engine.manifest import Manifest
from alorakit.training.config import ProgressEvent

RUN = CliRunner()


def fails(*args: str) -> str:
    """Run ``m alora``, expect bad input, and give the one line of the error."""
    result = RUN.invoke(m_app(), ["alora", *args])
    assert result.exit_code == 2, result.output
    [line] = result.stderr.splitlines()
    assert line.startswith("error: ")
    return line


class Stopped(TrainingError):
    """As an interrupted training run ends."""

    exit_code = 130


def train_args(datafile: Path, out: Path, *more: str) -> list[str]:
    return ["train", str(datafile), "--basemodel", "no/model", "--outfile", str(out), *more]


# -- help


@pytest.mark.parametrize("entry", ["m", "alorakit"])
def test_help_needs_no_torch(entry: str) -> None:
    code = (
        f"import sys; sys.argv = ['{entry}', '--help']\n"
        "from alorakit.bindings.cli import main\n"
        f"try:\n    main.{entry}()\n"
        "except SystemExit as exc:\n    assert not exc.code\n"
        "print('torch' in sys.modules, 'tokenizers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "alora" in done.stdout
    assert done.stdout.splitlines()[-1] == "False False"


@pytest.mark.parametrize(("app", "prefix"), [(m_app, ["alora"]), (alorakit_app, []), (alorakit_app, ["alora"])])
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(app: Any, prefix: list[str], command: str) -> None:
    result = RUN.invoke(app(), [*prefix, command, "--help"])
    assert result.exit_code == 0
    assert command in result.output


# -- bad input


def test_a_bad_setting(tmp_path: Path) -> None:
    assert "epochs=0" in fails(*train_args(tmp_path / "d", tmp_path / "o", "--epochs", "0"))
    assert "'dora'" in fails(*train_args(tmp_path / "d", tmp_path / "o", "--adapter", "dora"))


def test_a_data_file_that_is_not_there(tmp_path: Path) -> None:
    assert "is not a file" in fails(*train_args(tmp_path / "d", tmp_path / "o"))


def test_an_outfile_that_cannot_be_written(tmp_path: Path) -> None:
    data = tmp_path / "d"
    data.write_text("{}")
    assert str(data) in fails(*train_args(data, data))
    assert not (tmp_path / "o").exists()


def test_a_base_model_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "d").write_text("{}")
    args = ["train", str(tmp_path / "d"), "--outfile", str(tmp_path / "o"), "--basemodel", str(tmp_path)]
    assert "config.json" in fails(*args)
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not readable as JSON"),
        ("[" * 100_000, "not readable as JSON"),
        ("[]", "expected a JSON object"),
        ("{}", "no non-empty string"),
        ('{"invocation_prompt": " "}', "no non-empty string"),
        ('{"invocation_prompt": 3}', "no non-empty string"),
        ('{"invocation_prompt": "a\\ud800"}', "surrogate"),
        (None, "not readable"),
    ],
)
def test_a_bad_promptfile(tmp_path: Path, text: str | None, message: str) -> None:
    prompt = tmp_path / "prompt.json"
    if text is not None:
        prompt.write_text(text)
    with pytest.raises(DataError, match=message):
        read_promptfile(prompt)
    line = fails(*train_args(tmp_path / "d", tmp_path / "o", "--promptfile", str(prompt)))
    assert str(prompt) in line


def test_a_promptfile_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not readable as JSON"):
        read_promptfile(tmp_path / "p")


def test_check_wants_an_adapter_folder_that_names_its_base(tmp_path: Path) -> None:
    assert "is not a folder" in fails("check", str(tmp_path / "gone"), "text")
    assert "adapter_config.json" in fails("check", str(tmp_path), "text")
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "--basemodel" in fails("check", str(tmp_path), "text")
    (tmp_path / "alorakit.json").write_text(Manifest(base_model="my-folder-model/x/y").to_json())
    line = fails("check", str(tmp_path), "text")
    assert "my-folder-model/x/y" in line
    assert "--basemodel" in line


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ConfigError("a\nb"), 2, "error: a b"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (Stopped("saved; go on with --resume"), 130, "saved; go on"),
        (ZeroDivisionError("x"), 1, "unexpected error: ZeroDivisionError: x; run again with --debug"),
    ],
)
def test_how_errors_are_reported(
    error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as ended, reported(debug=False):
        raise error
    printed = capsys.readouterr().err
    assert ended.value.exit_code == code
    assert printed.startswith(line)
    assert printed.count("\n") == 1


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit), reported(debug=True):
        raise AlorakitError("x")
    assert "Traceback" in capsys.readouterr().err


def test_an_exit_code_passes_through() -> None:
    with pytest.raises(typer.Exit) as ended, reported(debug=False):
        raise typer.Exit(7)
    assert ended.value.exit_code == 7


# -- check


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    folder = tmp_path / "failure"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    (folder / "alorakit.json").write_text(Manifest(labels=("bearing", "no_failure"), invocation="@").to_json())
    return folder


def test_check_reads_the_context_first_and_then_asks(fake_engine: Any, adapter: Path) -> None:
    engine = fake_engine(["x"], lambda text: 3.0 if text == "bearing" else 1.0)
    report = check_module.run_check(engine, adapter, "note", "must not be 'no_failure'")
    assert engine.prompts == ["<user>note"]
    assert engine.params[0].max_tokens == 1
    assert engine.scored == [("<user>note@", ["bearing", "no_failure"], "failure", True)]
    assert (report.label, report.passed, report.probabilities["bearing"]) == ("bearing", True, 0.75)
    assert (report.context_tokens, report.prompt_tokens, report.reused_tokens) == (11, 12, 9)
    assert check_module.render(report).splitlines() == [
        "label    bearing (passes)",
        "   75.0% bearing",
        "   25.0% no_failure",
        "context  11 tokens read by the base model in 2 ms",
        "check    9 of 12 tokens reused, 3 computed, 2 ms",
    ]


def test_check_without_a_requirement_gives_the_label_alone(fake_engine: Any, adapter: Path) -> None:
    report = check_module.run_check(fake_engine(["x"]), adapter, "note", None)
    assert report.passed is None
    assert check_module.render(report).startswith("label    bearing\n")


def test_check_with_a_requirement_that_does_not_decide(fake_engine: Any, adapter: Path) -> None:
    with pytest.raises(CheckError):
        check_module.run_check(fake_engine(["x"]), adapter, "note", "be nice")


def test_check_prints_json(fake_engine: Any, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = fake_engine(["x"])
    monkeypatch.setattr("alorakit.engine.engine.Engine.from_pretrained", lambda model, device: engine)
    args = ["alora", "check", str(adapter), "note", "--basemodel", "any", "--json", "--device", "cpu"]
    result = RUN.invoke(m_app(), args)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["label"] == "bearing"
    assert engine.closed


# -- progress


def test_progress_as_plain_lines() -> None:
    stream = io.StringIO()
    with ProgressDisplay(stream) as display:
        for epoch in (1, 2):
            for done in range(0, 101):
                display(ProgressEvent("train", done, 100, f"epoch {epoch}"))
            display(ProgressEvent("evaluate", 8, 8, f"epoch {epoch}"))
        display(ProgressEvent("save", 0, 0, ""))
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2 * (11 + 1) + 1
    assert lines.count("evaluate 8/8 epoch 2") == 1
    assert lines[0] == "train 0/100 epoch 1"
    assert lines[-1] == "save 0/0"


def test_progress_as_bars_on_a_terminal() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    with ProgressDisplay(stream) as display:
        for done in (1, 2, 3):
            display(ProgressEvent("prefix", done, 3, "contexts"))
    assert "prefix" in stream.getvalue()
    assert "3/3" in stream.getvalue()


@pytest.mark.parametrize("words", [["--version"], ["alora", "--version"]])
def test_the_version(words: list[str]) -> None:
    result = RUN.invoke(m_app(), words)
    assert (result.exit_code, result.output) == (0, f"alorakit {version('alorakit')}\n")
