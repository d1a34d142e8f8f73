"""Which kernels run, and what happens if those asked for cannot."""

import logging
from collections.abc import Iterator

import pytest
import torch

from alorakit import Engine
from alorakit.engine.errors import ConfigError
from alorakit.kernels import backend, ops

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def restore(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(backend, "_logged", set())
    yield
    ops.use_backend(None)


def test_a_cpu_runs_torch_unless_told_otherwise(monkeypatch):
    assert ops.backend_for(CPU) == "torch"
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert ops.backend_for(CPU) == "torch"
    ops.use_backend("triton")
    assert ops.backend_for(CPU) == "triton"
    ops.use_backend("torch")
    assert ops.backend_for(CPU) == "torch"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_runs_triton_unless_told_otherwise():
    assert ops.backend_for(torch.device("cuda")) == "triton"
    ops.use_backend("torch")
    assert ops.backend_for(torch.device("cuda")) == "torch"


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU runs it")
def test_triton_without_gpu_or_interpreter_raises(monkeypatch, tmp_path):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(ops.BackendError, match="backend='triton' cannot run on cpu; use a CUDA device"):
        ops.use_backend("triton")
    assert ops.backend_for(CPU) == "torch"
    with pytest.raises(ops.BackendError, match="backend='cuda' is not one of triton, torch"):
        ops.use_backend("cuda")


def test_triton_not_installed_raises(monkeypatch):
    monkeypatch.setattr(backend, "_has_triton", lambda: False)
    with pytest.raises(ops.BackendError, match="needs the package triton, which is not installed"):
        ops.use_backend("triton")


def test_an_engine_for_which_triton_cannot_run_is_a_configuration_error(monkeypatch, tiny_tokenizer_dir, tmp_path):
    from tests.engine.folders import make_model

    model = make_model(tmp_path / "model", tiny_tokenizer_dir)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    ops.use_backend("triton")
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(ConfigError, match="cannot run on cpu"):
        Engine.from_pretrained(model, device="cpu", dtype="float32")


def test_the_choice_is_logged_once(caplog):
    with caplog.at_level(logging.INFO, logger="alorakit"):
        ops.backend_for(CPU)
        ops.backend_for(CPU)
    assert [record.message for record in caplog.records] == ["backend for cpu: torch"]
