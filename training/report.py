"""What a training run did: returned to the caller, and written into the adapter folder as ``training.json``."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from alorakit.training.config import TrainConfig

REPORT_NAME = "training.json"


@dataclass(frozen=True)
class TrainReport:
    """A finished run.

    Attributes:
        history: One mapping for each epoch: ``epoch`` (from 1), ``train_loss``, ``learning_rate`` (of its first
            step), ``seconds``; with validation also ``val_loss`` and ``accuracy``.
        best_epoch: The epoch that was saved (from 1): the best validation loss or accuracy, as ``best_by`` says, or the
            last one without validation.
        metrics: Figures of that epoch: ``train_loss``, ``val_loss``, ``accuracy``, as far as they are known.
        before: ``val_loss`` and ``accuracy`` of the base model; empty without validation.
        num_train: Rows trained on.
        num_val: Rows held out.
        truncated: Rows whose item was cut to fit.
        prefixes: ``kept`` distinct prefixes (``on_host`` of them in host memory) of ``tokens_kept`` tokens in
            ``bytes_kept`` bytes, and ``recomputed`` ones, computed anew for every pass.
        prefix_seconds: Time of the prefix pass.
        recompute_seconds: Time spent on prefixes that were not kept.
        seconds: Time of the whole run, loading and saving included; of a resumed one, of all its parts.
        tokens_per_s: Tokens of the training rows (prefixes included) in all epochs, by the seconds of the prefix
            pass and of the epochs without validation.
        path: The adapter folder.
        steps: Mean loss of the label tokens of every optimizer step, before its update, in nats; rows count by weight.
        stopped_early: Whether early stopping ended the run.
        temperature: What calibrates the saved epoch's scores, fitted on the validation rows; 1 if it was not.
        device: Where it ran.
        dtype: The base model's compute type.
        data_digest: SHA-256 of the tokenized rows.
        identity: Digests and settings that tell one run from another; see ``state.Identity``.
        per_class: For each label: (label, precision, recall, F1, support), support in rows, of the saved epoch.
        versions: Versions of the packages that took part.
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
    recompute_seconds: float
    seconds: float
    tokens_per_s: float
    path: Path
    steps: list[float]
    stopped_early: bool = False
    temperature: float = 1.0
    device: str = ""
    dtype: str = ""
    data_digest: str = ""
    identity: dict[str, Any] = field(default_factory=dict)
    per_class: list[list[Any]] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)

    def to_json(self, config: TrainConfig) -> str:
        """Text of ``training.json``: the settings of ``config`` and these figures; no rows of data, no paths."""
        figures: dict[str, Any] = asdict(self)
        del figures["path"]
        return json.dumps({"config": asdict(config), **figures}, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def load(cls, folder: Path) -> "TrainReport | None":
        """What :meth:`to_json` wrote into an adapter folder; None if there is no such file."""
        try:
            figures = json.loads((folder / REPORT_NAME).read_text(encoding="utf-8"))
            return cls(path=folder, **{name: value for name, value in figures.items() if name != "config"})
        except (OSError, ValueError, TypeError):
            return None
