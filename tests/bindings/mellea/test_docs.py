"""The examples of docs/mellea.md run, on a tiny model in the place of their own."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[3] / "docs" / "mellea.md"


@pytest.mark.parametrize("door", [0, 1], ids=["mellea", "own"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:Capability:UserWarning")
def test_an_example(door, base, labels, monkeypatch, tmp_path, capsys):
    both = re.findall(r"<!-- example -->\n```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert len(both) == 2
    code = both[door]
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "my_adapter").symlink_to(labels)
    monkeypatch.chdir(tmp_path)
    code = code.replace("HuggingFaceTB/SmolLM2-135M-Instruct", str(base)).replace("SmolLM2-135M-Instruct", base.name)
    exec(compile(code, str(DOCS), "exec"), {"__name__": "example"})
    *_, last = capsys.readouterr().out.strip().splitlines()
    assert re.match(r"(True|False) \w[\w ]* \{'no_failure': ", last)
