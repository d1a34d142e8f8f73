"""Buffers of a step, and what happens if it cannot be captured."""

import logging
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from alorakit.engine.captured_step import CapturedStep, GraphPool
from alorakit.engine.step_buffer import StepBuffer

CPU = torch.device("cpu")


def buffer() -> StepBuffer:
    return StepBuffer({"slots": (5,), "items": (2, 3), "tables": (7,)}, {"slots": -1}, CPU)


def array(*values: object) -> np.ndarray:
    return np.array(values, np.int32)


def test_arrays_are_filled_up_at_fixed_addresses():
    step = buffer()
    addresses = {name: view.data_ptr() for name, view in step.views.items()}
    step.load({"slots": array(4, 5, 6), "items": array([1, 2, 3], [4, 5, 6]), "tables": array(9)})
    step.load({"slots": array(7), "items": array([8, 9, 10]), "tables": array(3, 2)})
    assert step.views["slots"].tolist() == [7, -1, -1, -1, -1]
    assert step.views["items"].tolist() == [[8, 9, 10], [0, 0, 0]]
    assert step.views["tables"][:2].tolist() == [3, 2]
    assert {name: view.data_ptr() for name, view in step.views.items()} == addresses
    assert all((address - min(addresses.values())) % 16 == 0 for address in addresses.values())


def test_an_array_that_is_too_large_is_refused():
    with pytest.raises(ValueError, match="slots has 6 numbers, and there is room for 5"):
        buffer().load({"slots": array(1, 2, 3, 4, 5, 6)})


def test_a_step_that_cannot_be_captured_runs_launch_by_launch(monkeypatch, caplog):
    attempts = []

    def capture(self: CapturedStep) -> None:
        attempts.append(1)
        raise torch.OutOfMemoryError("no memory for a graph")

    monkeypatch.setattr(CapturedStep, "_capture", capture)
    inputs = buffer()
    step = CapturedStep(
        inputs, lambda: (inputs.views["slots"] + 1, inputs.views["slots"] > 0), GraphPool(handle=(0, 1))
    )
    with caplog.at_level(logging.WARNING, logger="alorakit"):
        for value in (4, 7):
            logits, _ = step.run({"slots": array(value)})
            assert logits[0] == value + 1
    assert len(attempts) == 1
    assert [r.message for r in caplog.records] == [
        "a step could not be captured in a CUDA graph and runs launch by launch: no memory for a graph"
    ]


def test_a_captured_step_is_replayed_and_captured_beside_other_threads(monkeypatch):
    class Graph:
        def replay(self) -> None:
            calls.append("replay")

    calls: list[object] = []
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph, **how: calls.append(how) or nullcontext())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 100 * len(calls))
    inputs, pool = buffer(), GraphPool(handle=(0, 1))
    step = CapturedStep(inputs, lambda: (inputs.views["slots"] + 1, inputs.views["slots"] > 0), pool)
    for value in (4, 7):
        step.run({"slots": array(value)})
    assert calls == [{"pool": (0, 1), "capture_error_mode": "thread_local"}, "replay"]
    assert (pool.num_graphs, pool.num_bytes) == (1, 100)


def test_without_a_gpu_nothing_is_captured():
    assert GraphPool.on(CPU, enabled=True).handle is None
