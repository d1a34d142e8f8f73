"""``m alora upload`` against a hub on loopback: what arrives, and what is refused before anything is sent."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file, save_file

from tests.bindings.hub_fixtures import folder as folder
from tests.bindings.hub_fixtures import hub as hub
from tests.bindings.hub_fixtures import sent, upload
from tests.bindings.hub_folders import BASE, FILES, contents, make_adapter
from tests.hub_server import serve
from tests.hub_state import Hub
from tests.training.mellea_reader import mellea_folder

INSIDE = f"my_adapter/{BASE.split('/')[1]}/alora"


# -- what arrives


def test_an_adapter_goes_to_the_root_in_one_commit(hub: Hub, folder: Path) -> None:
    before = contents(folder)
    result = upload(folder)
    assert set(sent(hub)) == FILES and sent(hub) == before
    [commit] = hub.repos["org/my_adapter"].commits()
    assert hub.repos["org/my_adapter"].private
    assert f"made org/my_adapter (private), commit {commit.oid[:12]}" in result.stdout
    assert contents(folder) == before


@pytest.mark.parametrize("kind", ["alora", "lora"])
def test_an_intrinsic_goes_where_mellea_looks(hub: Hub, tmp_path: Path, kind: str) -> None:
    """The kind is that of the value: a plain LoRA's configuration has the aLoRA's key, too."""
    folder = make_adapter(tmp_path / "x", kind)
    assert "alora_invocation_tokens" in json.loads((folder / "adapter_config.json").read_text())
    before = contents(folder)
    contract = tmp_path / "other.yaml"
    contract.write_text((folder / "io.yaml").read_text() + "docs_as_message: null\n")
    upload(folder, "--intrinsic", "--io-yaml", str(contract))
    inside = f"my_adapter/SmolLM2-135M-Instruct/{kind}"
    files = sent(hub)
    card = files.pop("README.md").decode()
    assert f"]({inside}/training.png)" in card and yaml.safe_load(card.split("---\n")[1])["base_model"] == BASE
    assert set(files) == {f"{inside}/{name}" for name in FILES}
    assert files[f"{inside}/io.yaml"] == contract.read_bytes()
    assert contents(folder) == before
    upload(folder, "--intrinsic", "--intrinsic-name", "other")
    assert f"other/SmolLM2-135M-Instruct/{kind}/adapter_config.json" in sent(hub)
    assert sent(hub)["README.md"].decode() == card  # the collection's card is not overwritten by another adapter's


def test_mellea_finds_what_was_uploaded(folder: Path, tmp_path: Path) -> None:
    """The command lines of the README, verbatim, in processes of their own, and Mellea's own loader after them."""
    mellea = mellea_folder()
    (tmp_path / "checkpoints").mkdir()
    shutil.copytree(folder, tmp_path / "checkpoints" / "my_adapter")
    shutil.copy(folder / "io.yaml", tmp_path / "io.yaml")
    with serve() as hub:
        env = {
            **os.environ, "HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_write", "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "hf"),
        }  # fmt: skip

        def run(code: str, *args: str, **more: str) -> str:
            done = subprocess.run(
                [sys.executable, "-c", code, *args], env={**env, **more}, cwd=tmp_path, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr
            return done.stdout

        m = "from alorakit.bindings.cli.main import m; m()"
        run(m, *["alora", "upload", "./checkpoints/my_adapter", "--name", "org/my_adapter"])
        assert sent(hub) == contents(folder)
        run(
            m,
            *[
                "alora",
                "upload",
                "./checkpoints/my_adapter",
                "--name",
                "org/my_adapter",
                "--intrinsic",
                "--io-yaml",
                "io.yaml",
            ],
        )
        assert len(hub.repos["org/my_adapter"].commits()) == 2
        find = (
            "from mellea.formatters.granite.intrinsics import obtain_lora, obtain_io_yaml\n"
            f"asked = ('my_adapter', {BASE.split('/')[1]!r}, 'org/my_adapter')\n"
            "print(obtain_lora(*asked, alora=True))\nprint(obtain_io_yaml(*asked, alora=True))"
        )
        found, contract = run(find, PYTHONPATH=f"{env.get('PYTHONPATH', '')}{os.pathsep}{mellea}").splitlines()
    assert contents(Path(found)) == contents(folder)
    assert Path(contract).read_bytes() == (folder / "io.yaml").read_bytes()


def test_only_the_adapters_files_go(hub: Hub, folder: Path) -> None:
    (folder / "checkpoint-10").mkdir()
    (folder / "checkpoint-10" / "optimizer.pt").write_bytes(b"x")
    for name in ("training_state.safetensors", "adapter_model.safetensors.partial", "notes.txt"):
        (folder / name).write_bytes(b"x")
    result = upload(folder)
    assert set(sent(hub)) == FILES
    assert "not uploaded: adapter_model.safetensors.partial, checkpoint-10, notes.txt, training_state" in result.stdout


def test_uploading_again(hub: Hub, folder: Path, tmp_path: Path) -> None:
    upload(folder)
    again = json.loads(upload(folder, "--json").stdout)
    [commit] = hub.repos["org/my_adapter"].commits()  # nothing has changed
    assert (again["oid"], again["created"]) == (commit.oid, False)
    other = make_adapter(tmp_path / "other", seed=1)
    (other / "training.png").unlink()
    report = json.loads(upload(other, "--json").stdout)
    assert report["deleted"] == ["training.png"]  # no file of the adapter that was there stays
    assert sent(hub) == contents(other)


def test_a_branch(hub: Hub, folder: Path) -> None:
    report = json.loads(upload(folder, "--revision", "v2", "--public", "--json").stdout)
    assert set(sent(hub, branch="v2")) == FILES and sent(hub) == {}
    assert (report["revision"], report["private"], report["created"]) == ("v2", False, True)
    upload(folder, "--revision", "v2")
    assert "is no branch" in upload(folder, "--revision", "0" * 40, code=2)


def test_a_dry_run_asks_nobody(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    result = upload(folder, "--dry-run", "--intrinsic")
    assert f"{INSIDE}/adapter_model.safetensors" in result.stdout and "nothing was sent" in result.stdout
    report = json.loads(upload(folder, "--dry-run", "--json").stdout)
    assert set(report["files"]) == FILES and report["kind"] == "alora" and report["dry_run"]
    assert hub.requests == [] and hub.repos == {}


def test_a_base_model_that_is_a_folder_gets_its_id(hub: Hub, tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "x", base="/models/smol")
    assert "--basemodel org/model" in upload(folder, code=2)
    before = contents(folder)
    upload(folder, "--basemodel", BASE)
    files = sent(hub)
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == BASE
    assert json.loads(files["alorakit.json"])["base_model"] == BASE
    assert not any(b"/models/smol" in content for content in files.values())
    assert contents(folder) == before


def test_a_base_model_that_is_a_folder_of_a_common_name(hub: Hub, tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "x", base="model")
    upload(folder, "--basemodel", BASE)
    text = sent(hub)["README.md"].decode()
    assert f"base_model: {BASE}" in text and "base_model: model" not in text
    assert f"_{BASE}" not in text and f"{BASE}_" not in text


# -- what is refused before anything is sent


def test_a_folder_that_is_no_sound_adapter(hub: Hub, folder: Path) -> None:
    def broken(change: Any, message: str) -> None:
        copy = folder.parent / "broken"
        shutil.copytree(folder, copy)
        change(copy)
        line = upload(copy, code=2)
        assert message in line, line
        shutil.rmtree(copy)

    def cut(copy: Path) -> None:
        weights = copy / "adapter_model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-8])

    def poison(copy: Path) -> None:
        tensors = load_file(copy / "adapter_model.safetensors")
        next(iter(tensors.values()))[0, 0] = float("nan")
        save_file(tensors, copy / "adapter_model.safetensors")

    def drop(copy: Path) -> None:
        tensors = load_file(copy / "adapter_model.safetensors")
        tensors.popitem()
        save_file(tensors, copy / "adapter_model.safetensors")

    def edit(name: str, text: str) -> Any:
        return lambda copy: (copy / name).write_text(text)

    broken(cut, "truncated")
    broken(poison, "not finite")
    broken(drop, "missing base_model.model")
    broken(lambda copy: (copy / "adapter_config.json").unlink(), "no adapter_config.json")
    broken(edit("alorakit.json", "{"), "not readable as JSON")
    broken(lambda copy: (copy / "README.md").unlink(), "m alora add-readme")
    broken(edit("README.md", "# no front matter"), "does not begin with YAML")
    broken(edit("README.md", "---\na: [\n---\n"), "no YAML")
    for text in ("date: 2024-13-45", "a: " + "[" * 5000):  # errors that are not YAML's own
        broken(edit("README.md", f"---\n{text}\n---\n"), "no YAML")
        broken(edit("io.yaml", text), "no YAML")
    broken(edit("io.yaml", "model: null\n"), "has no response_format, transformations")
    broken(edit("README.md", "---\na: 1\n---\ntoken hf_" + "a" * 30), "README.md, line 4, holds what looks like")
    assert "is not a folder" in upload(folder / "gone", code=2)
    assert hub.requests == []


def test_bad_options(hub: Hub, folder: Path, tmp_path: Path) -> None:
    for name in ("adapter", "a/b/c", "https://huggingface.co/org/x", "org/"):
        assert "give org/name" in upload(folder, code=2, name=name)
    (tmp_path / "bad.yaml").write_text("model: null\nresponse_format: x\ntransformations: []\nsurprise: 1\n")
    assert "knows no surprise" in upload(folder, "--io-yaml", str(tmp_path / "bad.yaml"), code=2)
    assert "no such file" in upload(folder, "--io-yaml", str(tmp_path / "gone.yaml"), code=2)
    for branch in ("", "..", "../x", "a b", "x/../y", "main/", "-x", "a\nb"):
        assert "is no branch" in upload(folder, f"--revision={branch}", code=2)
    assert "give both" in upload(folder, "--intrinsic-name", "x", code=2)
    assert "no folder's name" in upload(folder, "--intrinsic", "--intrinsic-name", "../x", code=2)
    (folder / "io.yaml").unlink()
    assert "--intrinsic needs an io.yaml" in upload(folder, "--intrinsic", code=2)
    assert hub.requests == []


def test_data_in_the_texts_is_warned_of(hub: Hub, folder: Path) -> None:
    with (folder / "README.md").open("a") as card:
        card.write('\n{"item": "the pump of Ann hums", "label": "x"}\nask ann@example.org\nsee /home/ann/rows.jsonl\n')
    (folder / "alorakit.json").write_text(json.dumps({"labels": ["a" * 100]}))
    result = upload(folder)
    for kind in ("a row of data", "an e-mail address", "a path of this machine", "labels of more than 80"):
        assert kind in result.stderr
    assert upload(make_adapter(folder.parent / "plain")).stderr == ""
