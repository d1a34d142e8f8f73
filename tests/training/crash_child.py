"""A training process that kills itself; ``tests/training/test_crash.py`` starts it."""

import os
import signal
import sys
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

import torch

from alorakit.engine.tokenizer import Tokenizer
from alorakit.training import ProgressEvent, TrainConfig, adapter_folder, load_examples, result, state, train

SETTINGS = {
    "rank": 4,
    "alpha": 8,
    "dropout": 0.1,
    "epochs": 3,
    "learning_rate": 1e-2,
    "save_steps": 3,
    "batch_size": 2,
    "grad_accum": 2,
    "device": "cpu",
    "dtype": "float32",
}


class Moments:
    """Counts what a run does, and ends the process by SIGKILL at a chosen moment.

    A moment is a progress event, the instant before a file below ``folder`` is opened for writing, renamed or removed,
    and the one when half of a file is written.
    """

    def __init__(self, folder: Path, last: int | None, num_seen: "Synchronized[int]") -> None:
        self._folder, self._last, self._seen = str(folder), last, num_seen
        sys.addaudithook(self._file_event)
        write = adapter_folder.write_partial

        def in_halves(path: Path, content: bytes) -> None:
            write(path, content[: len(content) // 2])
            self.passed()
            write(path, content)

        adapter_folder.write_partial = state.write_partial = in_halves

    def passed(self, event: ProgressEvent | None = None) -> None:
        self._seen.value += 1
        if self._seen.value == self._last:
            os.kill(os.getpid(), signal.SIGKILL)

    def _file_event(self, event: str, args: tuple[Any, ...]) -> None:
        writing = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if (writing or event in ("os.rename", "os.remove")) and str(args[0]).startswith(self._folder):
            self.passed()


def run(
    base: Path, data: Path, outfile: Path, changes: dict[str, Any], resume: bool, last: int | None, num_seen: Any
) -> None:
    """Train in this process, and draw nothing: that would take longer than all the rest."""
    torch.set_num_threads(1)
    result.training_png = lambda *_: b"no picture" * 100
    rows = load_examples(data, Tokenizer.from_pretrained(base), invocation="<|start_header_id|>check")
    moments = Moments(outfile, last, num_seen)
    train(base, rows, TrainConfig(**{**SETTINGS, **changes}), outfile, moments.passed, resume=resume)
