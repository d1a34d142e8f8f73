"""One contestant of the training benchmark in a process of its own, so that its memory is its own.

``measure(Run(...))`` starts ``python -m benchmarks.training_run``, which takes a :class:`Run` as JSON and prints an
:class:`Outcome` as its last line.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from alorakit.engine.devices import pick_device, pick_dtype
from alorakit.engine.model_config import ModelConfig
from alorakit.engine.pretrained import ResolvedModel, resolve_model
from alorakit.engine.tokenizer import Tokenizer
from alorakit.training import ExampleList, ProgressEvent, TrainConfig, TrainReport, load_examples, train
from alorakit.training.prepare import split
from benchmarks.peers.peft_training import PeftTrainer, initial_weights, optimizer_groups
from benchmarks.resident import PeakMemory, settle

OURS, PEER = "alorakit", "transformers + PEFT"


@dataclass(frozen=True)
class Run:
    """What to train.

    Attributes:
        who: ``OURS`` or ``PEER``.
        model: Folder or Hub id.
        rows: JSONL of ``item`` and ``label``.
        max_length: Longer rows lose the left end of their item.
        config: Fields of ``TrainConfig``.
        peer_steps: How many optimizer steps the peer takes, spread over the run; None: all of them, from our initial
            weights, and the validation loss at the end.
        threads: Of torch; None: its default.
    """

    who: str
    model: str
    rows: str
    max_length: int
    config: dict[str, Any]
    peer_steps: int | None = None
    threads: int | None = None


@dataclass(frozen=True)
class Outcome:
    """What it took.

    Attributes:
        num_steps: Optimizer steps of the whole run.
        num_tokens: Tokens of a row, mean.
        dtype: Of the base model.
        seconds: Of the whole run once the model is loaded: prefix pass, epochs, files. 0 for the peer.
        prefix_seconds: Of that, the prefix pass.
        step_seconds: Of each optimizer step the peer took.
        losses: Of each optimizer step taken.
        val_loss: After the last epoch; None where nothing was held out.
        loaded: Resident bytes with model and optimizer loaded.
        growth: Most bytes beyond that, without the kept prefixes.
        store: Bytes of the kept prefixes.
    """

    num_steps: int
    num_tokens: float
    dtype: str
    seconds: float = 0.0
    prefix_seconds: float = 0.0
    step_seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    val_loss: float | None = None
    loaded: int = 0
    growth: int = 0
    store: int = 0


def measure(run: Run) -> Outcome:
    """Train in a process of its own.

    Raises:
        SystemExit: The process failed; its errors are on standard error.
    """
    command = [sys.executable, "-m", "benchmarks.training_run", json.dumps(asdict(run))]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{run.who} ended with code {done.returncode}")
    return Outcome(**json.loads(done.stdout.splitlines()[-1]))


class _Watch:
    """Follows ``train`` by its events: when and how large it was loaded, and the peak of each stretch between two."""

    def __init__(self, memory: PeakMemory) -> None:
        self.began, self.loaded = 0.0, 0
        self._memory, self._share = memory, 0.0
        self._stretches: list[tuple[int, float]] = []

    def __call__(self, event: ProgressEvent) -> None:
        """Take the peak since the event before, when ``_share`` of the prefixes were kept."""
        if event.stage == "load":
            self.loaded = settle()
            self._memory.take()
            self.began = time.perf_counter()
            return
        self.finish_stretch()
        if event.stage == "prefix":
            self._share = event.done / max(event.total, 1)

    def finish_stretch(self) -> None:
        """Note the peak since the last event."""
        self._stretches.append((self._memory.take(), self._share))

    def growth(self, store: int) -> int:
        """Most bytes beyond what was loaded and what was kept when the stretch began."""
        return max(peak - self.loaded - round(share * store) for peak, share in self._stretches)


def train_ours(base: ResolvedModel, examples: ExampleList, config: TrainConfig, memory: PeakMemory) -> dict[str, Any]:
    """The public ``train``, as a user calls it."""
    watch = _Watch(memory)
    with tempfile.TemporaryDirectory() as folder:
        report = train(base.path, examples, config, Path(folder, "adapter"), watch)
        seconds = time.perf_counter() - watch.began
    watch.finish_stretch()
    store = store_bytes(report, base, config)
    return {
        "seconds": seconds,
        "prefix_seconds": report.prefix_seconds,
        "losses": list(getattr(report, "steps", [])),
        "val_loss": report.history[-1].get("val_loss"),
        "loaded": watch.loaded,
        "growth": watch.growth(store),
        "store": store,
    }


def store_bytes(report: TrainReport, base: ResolvedModel, config: TrainConfig) -> int:
    """Bytes of the kept prefixes, as reported, or by their tokens."""
    if "bytes_kept" in report.prefixes:
        return report.prefixes["bytes_kept"]
    shape, dtype = ModelConfig.from_folder(base.path), pick_dtype(config.dtype, pick_device(config.device))
    return report.prefixes["tokens_kept"] * 2 * shape.num_layers * shape.num_kv_heads * shape.head_dim * dtype.itemsize


def train_peer(
    base: ResolvedModel, examples: ExampleList, config: TrainConfig, memory: PeakMemory, steps: int | None
) -> dict[str, Any]:
    """The peer's loop: the whole run, or ``steps`` optimizer steps spread over it."""
    training, held_out = split(len(examples), config.val_fraction, config.seed)
    groups = optimizer_groups(training, config)
    eos_id = Tokenizer.from_pretrained(base.path).eos_token_id
    assert eos_id is not None
    weights = initial_weights(base.path, examples, config) if steps is None else None
    torch.manual_seed(config.seed)
    trainer = PeftTrainer(base.path, examples[0].invocation_ids, eos_id, config, len(groups), weights)
    for parameter in trainer.model.parameters():
        parameter.sum()  # pages that are mapped from the file belong to what is loaded
    loaded = settle()
    memory.take()
    done = [trainer.step([examples[row] for row in groups[step]], step) for step in spread(steps, len(groups))]
    growth = memory.take() - loaded
    val_loss = trainer.validation_loss([examples[row] for row in held_out]) if held_out and steps is None else None
    return {
        "step_seconds": [step.seconds for step in done],
        "losses": [step.loss for step in done],
        "val_loss": val_loss,
        "loaded": loaded,
        "growth": growth,
    }


def spread(steps: int | None, num_steps: int) -> Sequence[int]:
    """``steps`` of ``num_steps``, each in the middle of its share; None, or too many: all."""
    if steps is None or steps >= num_steps:
        return range(num_steps)
    return [(2 * index + 1) * num_steps // (2 * steps) for index in range(steps)]


def perform(run: Run) -> Outcome:
    """Do what ``run`` says, in this process."""
    config, base = TrainConfig(**run.config), resolve_model(run.model)
    examples = load_examples(run.rows, Tokenizer.from_pretrained(base.path), max_length=run.max_length)
    with PeakMemory() as memory:
        if run.who == OURS:
            found = train_ours(base, examples, config, memory)
        else:
            found = train_peer(base, examples, config, memory, run.peer_steps)
    training = split(len(examples), config.val_fraction, config.seed)[0]
    return Outcome(
        num_steps=len(optimizer_groups(training, config)),
        num_tokens=sum(example.num_tokens for example in examples) / len(examples),
        dtype=str(pick_dtype(config.dtype, pick_device(config.device))).removeprefix("torch."),
        **found,
    )


def main() -> None:
    """Run what the argument says."""
    run = Run(**json.loads(sys.argv[1]))
    if run.threads is not None:
        torch.set_num_threads(run.threads)
    print(json.dumps(asdict(perform(run))))


if __name__ == "__main__":
    main()
