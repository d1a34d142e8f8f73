"""Runs that end before their time, in this process, and what two runs have in common."""

from pathlib import Path
from typing import Any

from alorakit.training import ProgressEvent, TrainReport

STATE = "training_state.safetensors"
WEIGHTS = "adapter_model.safetensors"


class Killed(BaseException):
    """What a killed process does not catch either."""


class Until:
    """A progress function that ends the run at an event: the ``last``-th of a stage, from 1."""

    def __init__(self, stage: str = "train", last: int = 0) -> None:
        self.stage, self.last, self.seen = stage, last, 0

    def __call__(self, event: ProgressEvent) -> None:
        self.seen += event.stage == self.stage
        if event.stage == self.stage and self.seen == self.last:
            raise Killed


def figures(report: TrainReport) -> dict[str, Any]:
    """A report without times and place."""
    left = {name: value for name, value in vars(report).items() if name not in ("seconds", "path")}
    for name in ("prefix_seconds", "recompute_seconds", "tokens_per_s"):
        del left[name]
    left["history"] = [{k: v for k, v in entry.items() if k != "seconds"} for entry in report.history]
    return left


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
