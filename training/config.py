"""Training settings: one frozen dataclass, the source of truth for keywords and command-line defaults."""

import math
from dataclasses import dataclass
from typing import Any, Literal

from alorakit.engine.adapter_config import MAX_RANK, TARGETS
from alorakit.engine.config import DEVICES, DTYPES
from alorakit.engine.errors import ConfigError

ADAPTERS = ("alora", "lora")
SCHEDULERS = ("constant", "linear", "cosine")
BEST_BY = ("loss", "accuracy")
ANSWERS = ("auto", "label", "text")
ALL_LINEAR = "all-linear"
DEFAULT_RANKS = {"alora": 32, "lora": 6}
MAX_SEED = 2**63 - 1

# Settings that go together, and what they are for.
PRESETS: dict[str, dict[str, Any]] = {
    "small": {
        "learning_rate": 1e-3,
        "epochs": 3,
        "batch_size": 8,
        "grad_accum": 1,
        "scheduler": "linear",
        "warmup_ratio": 0.05,
    },
    "text": {
        "learning_rate": 1e-3,
        "epochs": 6,
        "batch_size": 8,
        "grad_accum": 1,
        "scheduler": "linear",
        "warmup_ratio": 0.05,
        "target_modules": ALL_LINEAR,
    },
    "large": {
        "learning_rate": 1e-4,
        "epochs": 3,
        "batch_size": 8,
        "grad_accum": 1,
        "scheduler": "cosine",
        "warmup_ratio": 0.05,
    },
    "mellea": {
        "learning_rate": 6e-6,
        "epochs": 6,
        "batch_size": 2,
        "grad_accum": 4,
        "scheduler": "linear",
    },
}
# Of aLoRAs beside that. Of a text, every token is the adapter's, and with the default's alpha / rank of 1, a fifth of a
# LoRA's, it learns less of the rows (docs/measured.md).
ALORA_PRESETS: dict[str, dict[str, Any]] = {"text": {"alpha": 160.0}}
PRESET_PURPOSES = {
    "small": "models of up to some 1B parameters",
    "text": "the same, where the answer is a text of its own",
    "large": "models of 3B parameters and more",
    "mellea": "what Mellea's own trainer does",
}


def preset(name: str, adapter: str) -> dict[str, Any]:
    """Settings of :class:`TrainConfig` that go together.

    Args:
        name: One of ``PRESETS``.
        adapter: ``"alora"`` or ``"lora"``.

    Raises:
        ConfigError: There is no such preset.
    """
    _one_of("preset", name, tuple(PRESETS))
    return {**PRESETS[name], **(ALORA_PRESETS.get(name, {}) if adapter == "alora" else {})}


@dataclass(frozen=True)
class ProgressEvent:
    """How far a run has come.

    Attributes:
        stage: ``"load"``, ``"prefix"``, ``"train"``, ``"evaluate"`` or ``"save"``.
        done: Units done of ``total``; prefixes, optimizer steps or rows, by stage.
        total: Units in all.
        message: One line for people.
    """

    stage: str
    done: int
    total: int
    message: str = ""


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a training run.

    Attributes:
        adapter: ``"alora"`` (adapts tokens from the invocation on) or ``"lora"`` (adapts every token).
        rank: Rank of each low-rank pair, 1 to 256; None: 32 for an aLoRA, 6 for a LoRA.
        alpha: The delta is scaled by alpha / rank.
        dropout: Probability of dropping an input of the low-rank path, while training only.
        epochs: Passes over the training rows.
        batch_size: With ``grad_accum``: ``batch_size * grad_accum`` rows make one optimizer step. How many of them go
            through the model together is decided by their tokens (see ``passes.py``); but for dropout's draws and
            rounding the result is the same.
        grad_accum: See there.
        learning_rate: AdamW's, at the start of the schedule.
        scheduler: How the learning rate goes: ``"constant"``, ``"linear"`` or ``"cosine"`` (both to zero). Few steps
            need the constant one: 60 steps at 3e-4 on six classes reach an accuracy of 0.86, 0.57 when they decay.
        warmup_ratio: Share of all optimizer steps over which the learning rate rises linearly from 0.
        weight_decay: AdamW's.
        max_grad_norm: Gradients are scaled down to this norm.
        early_stopping: Stop after so many epochs that are no better than the best one; None: never.
        best_by: Which epoch is saved: the one with the lowest validation ``"loss"`` or the highest ``"accuracy"``;
            of epochs of the same accuracy, the one with the lowest loss.
        save_steps: Write a checkpoint each so many optimizer steps; one is written after every epoch in any case.
        val_fraction: Share of the rows held out for validation; 0: none, and the last epoch is saved. Rows given for
            validation take its place.
        seed: Decides split, order, initial weights and dropout; 0 to 2**63 - 1.
        device: ``"auto"``: CUDA, then MPS, then CPU, whichever is there.
        dtype: Compute type of the base model; the adapter is float32 always.
        target_modules: Linear layers to adapt, any of the seven, or ``"all-linear"``.
        pass_labels: Labels that pass a check; recorded in the adapter folder.
        fail_labels: Labels that fail a check; recorded in the adapter folder.
        capability: What the adapter is for (``"requirement-check"``); recorded in the adapter folder.
        answer: What the adapter answers: ``"label"``, one of few labels, which is scored; ``"text"``, which is
            generated; ``"auto"``: text if there are more than 64 distinct labels, or if they are JSON objects and most
            differ.
        field: Of a text that is a JSON object: the field that accuracy is counted by; None: the first one that holds
            strings.
        activation_checkpointing: Compute activations again in the backward pass instead of keeping them; None: where
            memory requires it.
        prefix_memory: Bytes that kept prefixes may take, the rest being computed anew for each batch; None: half
            of the memory that is free once the model is loaded.

    Raises:
        ConfigError: A value is out of range.
    """

    adapter: Literal["alora", "lora"] = "alora"
    rank: int | None = None
    alpha: float = 32
    dropout: float = 0.05
    epochs: int = 6
    batch_size: int = 2
    grad_accum: int = 4
    learning_rate: float = 6e-6
    scheduler: Literal["constant", "linear", "cosine"] = "constant"
    warmup_ratio: float = 0.0
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    early_stopping: int | None = None
    best_by: Literal["loss", "accuracy"] = "loss"
    save_steps: int | None = None
    val_fraction: float = 0.2
    seed: int = 42
    device: str = "auto"
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    target_modules: tuple[str, ...] | Literal["all-linear"] = ("q_proj", "k_proj", "v_proj")
    pass_labels: tuple[str, ...] | None = None
    fail_labels: tuple[str, ...] | None = None
    capability: str | None = None
    answer: Literal["auto", "label", "text"] = "auto"
    field: str | None = None
    activation_checkpointing: bool | None = None
    prefix_memory: int | None = None

    def __post_init__(self) -> None:
        """Check every field."""
        _one_of("adapter", self.adapter, ADAPTERS)
        _one_of("scheduler", self.scheduler, SCHEDULERS)
        _one_of("best_by", self.best_by, BEST_BY)
        _one_of("answer", self.answer, ANSWERS)
        _one_of("dtype", self.dtype, DTYPES)
        _one_of("device", str(self.device).split(":")[0], DEVICES)
        if self.rank is not None:
            _integer("rank", self.rank, 1, MAX_RANK)
        for name in ("epochs", "batch_size", "grad_accum"):
            _integer(name, getattr(self, name), 1)
        _integer("seed", self.seed, 0, MAX_SEED)
        for name, low in (("prefix_memory", 0), ("early_stopping", 1), ("save_steps", 1)):
            if getattr(self, name) is not None:
                _integer(name, getattr(self, name), low)
        for name, what in (("field", "the name of a field"), ("capability", "a name")):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, str) and value.strip()):
                raise ConfigError(f"{name}={value!r} must be {what}, or None")
        if self.activation_checkpointing not in (None, True, False):
            raise ConfigError(f"activation_checkpointing={self.activation_checkpointing!r} must be True, False or None")
        _number("warmup_ratio", self.warmup_ratio, below=1.0)
        for name in ("alpha", "learning_rate", "max_grad_norm"):
            _number(name, getattr(self, name), above=0.0)
        _number("weight_decay", self.weight_decay)
        _number("dropout", self.dropout, below=1.0)
        _number("val_fraction", self.val_fraction, below=1.0)
        if not self.targets:
            raise ConfigError(f"target_modules=() must name at least one of {', '.join(TARGETS)}")
        for target in self._given_targets:
            _one_of("target_modules", target, (*TARGETS, ALL_LINEAR))
        if both := sorted(set(self.pass_labels or ()) & set(self.fail_labels or ())):
            raise ConfigError(f"labels {both} are in pass_labels and in fail_labels; a label can be in one of them")

    @property
    def effective_rank(self) -> int:
        """The rank, its default resolved."""
        return self.rank if self.rank is not None else DEFAULT_RANKS[self.adapter]

    @property
    def targets(self) -> tuple[str, ...]:
        """The linear layers to adapt, each once, ``"all-linear"`` spelled out."""
        given = self._given_targets
        return TARGETS if ALL_LINEAR in given else tuple(dict.fromkeys(given))

    @property
    def _given_targets(self) -> tuple[str, ...]:
        return (self.target_modules,) if isinstance(self.target_modules, str) else tuple(self.target_modules)


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{name}={value!r} is not one of {', '.join(allowed)}")


def _integer(name: str, value: object, low: int, high: int | None = None) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < low or (high is not None and value > high):
        limit = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise ConfigError(f"{name}={value!r} must be an integer {limit}")


def _number(name: str, value: object, above: float | None = None, below: float | None = None) -> None:
    ok = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not ok or not (value > above if above is not None else value >= 0) or (below is not None and value >= below):  # type: ignore[operator]
        low = f"above {above:g}" if above is not None else "at least 0"
        raise ConfigError(f"{name}={value!r} must be a number {low}{f' and below {below:g}' if below else ''}")
