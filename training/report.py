"""What a training run did: returned to the caller, and written into the adapter folder as ``training.json``."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from alorakit.training.config import TrainConfig

REPORT_NAME = "training.json"


@dataclass(frozen=True)
class TrainReport:
    """A finished run.

    Attributes:
        history: One mapping for each epoch: ``epoch`` (from 1), ``train_loss``, ``learning_rate`` (of its first
            step), ``seconds``; with validation also ``val_loss`` and, up to 64 labels, ``accuracy``.
        best_epoch: The epoch that was saved (from 1): the lowest validation loss, or the last one without validation.
        metrics: Figures of that epoch: ``train_loss``, ``val_loss``, ``accuracy``, as far as they are known.
        before: ``val_loss`` and ``accuracy`` of the base model; empty without validation.
        num_train: Rows trained on.
        num_val: Rows held out.
        truncated: Rows whose item was cut to fit.
        prefixes: ``kept`` and ``recomputed`` distinct prefixes, and ``tokens_kept``.
        prefix_seconds: Time of the prefix pass.
        seconds: Time of the whole run, loading and saving included.
        tokens_per_s: Tokens of the training rows (prefixes included) in all epochs, by the seconds of the prefix
            pass and of the epochs without validation.
        path: The adapter folder.
    """

    history: list[dict[str, float]]
    best_epoch: int
    metrics: dict[str, float]
    before: dict[str, float]
    num_train: int
    num_val: int
    truncated: int
    prefixes: dict[str, int]
    prefix_seconds: float
    seconds: float
    tokens_per_s: float
    path: Path

    def to_json(self, config: TrainConfig) -> str:
        """Text of ``training.json``: the settings and these figures; no rows of data, no paths."""
        figures: dict[str, Any] = asdict(self)
        del figures["path"]
        return json.dumps({"config": asdict(config), **figures}, indent=2, ensure_ascii=False) + "\n"
