"""Trains LoRA and activated LoRA adapters; an aLoRA's context is computed once and reused in every epoch."""

from typing import TYPE_CHECKING, Any

from alorakit.training.config import ProgressEvent, TrainConfig

if TYPE_CHECKING:
    from alorakit.training.data import Example, ExampleList, load_examples
    from alorakit.training.loop import train
    from alorakit.training.report import TrainReport

__all__ = ["Example", "ExampleList", "ProgressEvent", "TrainConfig", "TrainReport", "load_examples", "train"]

_HOMES = {
    "Example": "data",
    "ExampleList": "data",
    "load_examples": "data",
    "train": "loop",
    "TrainReport": "report",
}


def __getattr__(name: str) -> Any:
    # Imported on first use, so that the command line can read defaults from TrainConfig without loading torch.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
