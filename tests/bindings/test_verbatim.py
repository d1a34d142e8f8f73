"""The user's command lines, verbatim but for the base model's name; ``test_upload`` runs them as a program too."""

import json
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from alorakit.bindings.cli.main import alorakit_app, m_app
from alorakit.training import costs
from tests.bindings.hub_fixtures import hub as hub  # the fixture
from tests.bindings.hub_fixtures import sent
from tests.bindings.hub_folders import FILES, contents
from tests.engine.folders import make_model
from tests.hub_state import Hub

TRAIN = (
    "m alora train data.jsonl --basemodel {base} --outfile ./checkpoints/my_adapter --adapter alora --epochs 6 "
    "--learning-rate 6e-6 --batch-size 2 --max-length 1024 --grad-accum 4"
)
UPLOAD = "m alora upload ./checkpoints/my_adapter --name org/name"
INTRINSIC = "m alora upload ./checkpoints/my_adapter --name org/name --intrinsic --io-yaml FILE"
BASE = "org/base"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_dir: Path) -> Path:
    """A folder with rows and a model that is called as the Hub calls it."""
    folder = tmp_path_factory.mktemp("verbatim")
    (folder / "org").mkdir()
    make_model(folder / BASE, tiny_tokenizer_dir)
    rows = [
        {"item": f"Note {n}: it {('hums', 'stalls')[n % 2]}.", "label": ("fine", "broken")[n % 2]} for n in range(10)
    ]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def run(line: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Standard output of a command line, called in the folder."""
    monkeypatch.chdir(place)
    entry, *args = shlex.split(line)
    result = CliRunner().invoke({"m": m_app, "alorakit": alorakit_app}[entry](), args)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_train_then_upload(hub: Hub, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = run(TRAIN.format(base=BASE), place, monkeypatch)
    adapter = place / "checkpoints" / "my_adapter"
    assert told.splitlines()[-1].startswith("checkpoints/my_adapter: best epoch ")
    assert set(contents(adapter)) == FILES
    settings = json.loads((adapter / "training.json").read_text(encoding="utf-8"))["config"]
    assert {name: settings[name] for name in ("adapter", "epochs", "learning_rate", "batch_size", "grad_accum")} == {
        "adapter": "alora", "epochs": 6, "learning_rate": 6e-6, "batch_size": 2, "grad_accum": 4
    }  # fmt: skip
    assert json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))["alora_invocation_tokens"]
    (place / "FILE").write_bytes((adapter / "io.yaml").read_bytes())
    assert "made org/name (private), commit " in run(UPLOAD, place, monkeypatch)
    assert sent(hub, "org/name") == contents(adapter)
    run(INTRINSIC, place, monkeypatch)
    assert set(sent(hub, "org/name")) == FILES | {f"name/base/alora/{name}" for name in FILES}


@pytest.mark.parametrize("entry", ["alorakit", "alorakit alora"])
def test_alorakit_has_the_same_commands(place: Path, monkeypatch: pytest.MonkeyPatch, entry: str) -> None:
    monkeypatch.setattr(costs, "MEASURE_SECONDS", 0.001)
    line = f"{entry} train data.jsonl --basemodel {BASE} --outfile ./new --dry-run --json"
    assert json.loads(run(line, place, monkeypatch))["steps"] == 6
