"""The user's command lines, verbatim but for the base model's name, as the programs ``m`` and ``alorakit``."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bindings.hub_fixtures import sent
from tests.bindings.hub_folders import FILES, contents
from tests.engine.folders import make_model
from tests.hub_server import serve

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


def run(line: str, place: Path, **env: str) -> subprocess.CompletedProcess[str]:
    entry, *args = shlex.split(line)
    code = f"import sys; sys.argv[0] = {entry!r}; from alorakit.bindings.cli.main import {entry}; {entry}()"
    command = [sys.executable, "-c", code, *args]
    done = subprocess.run(command, cwd=place, env={**os.environ, **env}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


def test_train_then_upload(place: Path) -> None:
    done = run(TRAIN.format(base=BASE), place)
    adapter = place / "checkpoints" / "my_adapter"
    assert done.stdout.splitlines()[-1].startswith("checkpoints/my_adapter: best epoch ")
    assert set(contents(adapter)) == FILES
    settings = json.loads((adapter / "training.json").read_text(encoding="utf-8"))["config"]
    assert {name: settings[name] for name in ("adapter", "epochs", "learning_rate", "batch_size", "grad_accum")} == {
        "adapter": "alora", "epochs": 6, "learning_rate": 6e-6, "batch_size": 2, "grad_accum": 4
    }  # fmt: skip
    assert json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))["alora_invocation_tokens"]
    (place / "FILE").write_bytes((adapter / "io.yaml").read_bytes())
    with serve() as hub:
        env = {
            "HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_write", "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(place / "hf"),
        }  # fmt: skip
        assert "made org/name (private), commit " in run(UPLOAD, place, **env).stdout
        assert sent(hub, "org/name") == contents(adapter)
        run(INTRINSIC, place, **env)
        assert set(sent(hub, "org/name")) == FILES | {f"name/base/alora/{name}" for name in FILES}


def test_alorakit_has_the_same_commands(place: Path) -> None:
    for line in ("alorakit train {} --dry-run --json", "alorakit alora train {} --dry-run --json"):
        done = run(line.format(f"data.jsonl --basemodel {BASE} --outfile ./new"), place)
        assert json.loads(done.stdout)["steps"] == 6
