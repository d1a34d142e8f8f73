"""The C kernels are compiled once, and where they cannot be, that is said and torch does the work."""

import logging
import stat
from pathlib import Path

import pytest
import torch

from alorakit import Engine, SamplingParams
from alorakit.kernels import native_build, ops
from tests.engine.folders import make_model
from tests.native import needs_instructions, needs_native


@pytest.fixture
def model(tmp_path, tiny_tokenizer_dir) -> Path:
    return make_model(tmp_path / "model", tiny_tokenizer_dir, head_dim=64)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("ALORAKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CC", raising=False)
    return tmp_path / "cache" / "native"


def fake_compiler(folder: Path, script: str) -> str:
    path = folder / "fake-cc"
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def answer(model: Path) -> list[int]:
    engine = Engine.from_pretrained(model, device="cpu", dtype="bfloat16")
    try:
        [out] = engine.generate([[7, 8, 9]], SamplingParams(max_tokens=4, ignore_eos=True))
        return out.token_ids
    finally:
        engine.close()


@needs_native
def test_a_second_start_compiles_nothing(cache, monkeypatch):
    native_build.load_library(cache)
    [made] = cache.iterdir()
    monkeypatch.setattr(native_build, "_compile", None)
    native_build.load_library(cache)
    assert list(cache.iterdir()) == [made]


@needs_native
def test_a_damaged_file_is_made_anew(cache, caplog):
    native_build.load_library(cache.parent / "another")
    [whole] = (cache.parent / "another").iterdir()
    cache.mkdir()
    (cache / whole.name).write_bytes(whole.read_bytes()[:1000])
    native_build.load_library(cache)
    assert (cache / whole.name).read_bytes() == whole.read_bytes()
    assert "is damaged, and made anew" in caplog.text


@needs_native
def test_the_kernels_are_used_and_said_to_be(model, cache, caplog):
    with caplog.at_level(logging.INFO, "alorakit"):
        answer(model)
    assert "C kernels compiled in" in caplog.text and "bfloat16, by C" in caplog.text


@needs_native
def test_torch_is_used_if_it_is_forced(model, cache, caplog):
    ops.use_backend("torch")
    try:
        with caplog.at_level(logging.INFO, "alorakit"):
            ids = answer(model)
    finally:
        ops.use_backend(None)
    assert "runs in torch, not in C: backend='torch' is forced" in caplog.text
    assert not cache.exists() and len(ids) == 4


@needs_instructions
@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo 'layers.c:1: error: out of luck' >&2; exit 1", "error: out of luck"),
        ("exit 3", "exit code 3"),
        ("kill -9 $$", "exit code -9"),
        (": > \"$(echo $* | sed 's/.*-o //; s/ .*//')\"", "file too short"),  # an empty file
    ],
    ids=["error", "silent", "killed", "empty"],
)
def test_where_a_compiler_fails_torch_works(model, cache, caplog, monkeypatch, tmp_path, script, message):
    monkeypatch.setenv("CC", fake_compiler(tmp_path, script))
    with caplog.at_level(logging.WARNING, "alorakit"):
        assert len(answer(model)) == 4
    [record] = caplog.records
    assert "runs in torch, which is slower" in record.getMessage() and message in record.getMessage()
    assert message == "file too short" or not list(cache.iterdir())


@needs_instructions
def test_without_a_compiler_torch_works(model, cache, caplog, monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler")
    assert len(answer(model)) == 4
    assert "no C compiler (no-such-compiler) is installed" in caplog.text


@needs_native
def test_a_folder_that_is_a_file(model, cache, caplog):
    cache.parent.mkdir()
    cache.write_bytes(b"")
    assert len(answer(model)) == 4
    assert "runs in torch, which is slower" in caplog.text


def test_another_processor_runs_torch(model, cache, caplog, monkeypatch):
    monkeypatch.setattr(native_build, "processor_flags", lambda: frozenset({"avx2"}))
    with pytest.raises(native_build.NativeError, match="the processor has no avx512_bf16, avx512bw"):
        native_build.load_library(cache)
    assert len(answer(model)) == 4
    assert not cache.exists() and not caplog.records


@needs_native
def test_another_layout_of_packed_weights_runs_torch(model, cache, caplog, monkeypatch):
    real = torch.ops.mkldnn._nbytes
    assert native_build.packs_as_expected()
    monkeypatch.setattr(torch.ops.mkldnn, "_nbytes", lambda packed: real(packed) + 64)
    with caplog.at_level(logging.INFO, "alorakit"):
        assert len(answer(model)) == 4
    assert "packs weights in another layout" in caplog.text


@needs_native
def test_heads_of_another_size_run_torch(tmp_path, tiny_tokenizer_dir, cache, caplog):
    model = make_model(tmp_path / "narrow", tiny_tokenizer_dir, head_dim=24)
    with caplog.at_level(logging.INFO, "alorakit"):
        assert len(answer(model)) == 4
    assert "head_dim=24 is not one of 64, 128" in caplog.text
