"""The command line: arguments that the shell lets through and no file system or tokenizer takes."""

import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from alorakit.bindings.cli.main import m_app
from alorakit.engine.manifest import Manifest
from alorakit.engine.tokenizer import Tokenizer


def fails(*args: str) -> str:
    """Run ``m alora``, expect bad input, and give the one line of the error."""
    result = CliRunner().invoke(m_app(), ["alora", *args])
    assert result.exit_code == 2, result.output
    [line] = result.stderr.splitlines()
    return line


@pytest.mark.parametrize("path", ["~nouser-of-this-name/x", "x" * 300, "a\udcff"])
def test_paths_that_no_path_can_be(tmp_path: Path, path: str) -> None:
    assert "is not a file" in fails("train", path, "--basemodel", "no/model", "--outfile", str(tmp_path / "o"))
    assert re.search("is not a folder|not a usable path", fails("check", path, "text"))
    if "\udcff" not in path:
        (tmp_path / "d").write_text("{}")
        assert "cannot be written" in fails("train", str(tmp_path / "d"), "--basemodel", "no/model", "--outfile", path)


def test_text_that_is_not_utf8(
    fake_engine: Any, tmp_path: Path, tiny_tokenizer_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "alorakit.json").write_text(Manifest(labels=("a", "b"), invocation="@").to_json())
    engine = fake_engine(["x"])
    engine.tokenizer = Tokenizer.from_pretrained(tiny_tokenizer_dir)
    monkeypatch.setattr("alorakit.engine.engine.Engine.from_pretrained", lambda model, device: engine)
    fails("check", str(tmp_path), "caf\udce9", "--basemodel", "any")
    assert engine.closed
