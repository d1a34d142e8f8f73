"""The training run: prefixes once, then epochs over suffixes, the best epoch saved."""

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from alorakit.engine.devices import pick_device
from alorakit.engine.errors import TrainingError
from alorakit.engine.manifest import Manifest
from alorakit.engine.pretrained import ResolvedModel, resolve_model
from alorakit.engine.tokenizer import Tokenizer
from alorakit.training.answers import answers_of
from alorakit.training.checkpoint import check_outfile, save_adapter
from alorakit.training.config import ProgressEvent, TrainConfig
from alorakit.training.data import Example, ExampleList
from alorakit.training.evaluate import Evaluation, evaluate, label_ids
from alorakit.training.loss import SuffixModel
from alorakit.training.prepare import build_model, check_examples, fork_devices, split
from alorakit.training.report import TrainReport

Progress = Callable[[ProgressEvent], None]


def train(
    base_model: str | Path,
    examples: Sequence[Example],
    config: TrainConfig,
    outfile: str | Path,
    progress: Progress | None = None,
) -> TrainReport:
    """Train an adapter and write its folder.

    Args:
        base_model: Folder or Hub id.
        examples: Rows from :func:`~alorakit.training.load_examples`, made with the base model's tokenizer.
        config: Settings.
        outfile: Adapter folder to write; one that is there is replaced when training has succeeded.
        progress: Called as the run goes on.

    Raises:
        TrainingError: ``outfile`` cannot be written, or the loss is not finite; nothing is left behind.
        AlorakitError: The rows or the base model cannot be used.
    """
    started = time.perf_counter()
    notify = progress or _silent
    target = check_outfile(outfile)
    check_examples(examples, config)
    notify(ProgressEvent("load", 0, 1, f"loading {base_model}"))
    base = resolve_model(base_model)
    with torch.random.fork_rng(devices=fork_devices(pick_device(config.device))):
        torch.manual_seed(config.seed)
        model = build_model(base, examples, config)
        notify(ProgressEvent("load", 1, 1, f"{base.name} on {model.decoder.device}, {model.decoder.dtype}"))
        run = _Run(model, examples, config, notify, Tokenizer.from_pretrained(base.path).decode)
        run.fill_prefixes()
        run.epochs()
    report = run.report(started, target, getattr(examples, "truncated", 0))
    manifest = _manifest(base, examples, config, report)
    notify(ProgressEvent("save", 0, 1, f"writing {target}"))
    save_adapter(target, run.best_tensors, config, manifest, examples[0].invocation_ids, report)
    notify(ProgressEvent("save", 1, 1, f"wrote {target}"))
    return report


def learning_rate(config: TrainConfig, step: int, num_steps: int) -> float:
    """Learning rate of optimizer step ``step`` (from 0) of ``num_steps``."""
    done = step / num_steps
    factor = {"constant": 1.0, "linear": 1.0 - done, "cosine": 0.5 * (1.0 + math.cos(math.pi * done))}
    return config.learning_rate * factor[config.scheduler]


@dataclass
class _Run:
    """State of one run; ``examples`` are addressed by index, so that errors can name rows."""

    model: SuffixModel
    examples: Sequence[Example]
    config: TrainConfig
    notify: Progress
    decode: Callable[[Sequence[int]], str]
    history: list[dict[str, float]] = field(default_factory=list)
    before: dict[str, float] = field(default_factory=dict)
    best_epoch: int = 0
    best_tensors: dict[str, Tensor] = field(default_factory=dict)
    prefix_seconds: float = 0.0

    def __post_init__(self) -> None:
        cfg = self.config
        self.labels = label_ids(self.examples)
        self.answers = answers_of(self.examples, cfg)
        self.train_rows, self.val_rows = split(len(self.examples), cfg.val_fraction, cfg.seed)
        self.group_size = cfg.batch_size * cfg.grad_accum
        self.num_steps = cfg.epochs * math.ceil(len(self.train_rows) / self.group_size)
        self.step = 0
        self.optimizer = torch.optim.AdamW(
            self.model.lora.parameters(), lr=cfg.learning_rate, weight_decay=cfg.weight_decay, fused=True
        )

    def fill_prefixes(self) -> None:
        """Compute what lies before the activation points, once."""
        began = time.perf_counter()
        self.model.prefixes.fill(
            (self.model.prefix(self.examples[row]) for row in (*self.train_rows, *self.val_rows)),
            lambda done, total: self.notify(ProgressEvent("prefix", done, total, "prefixes computed")),
        )
        self.prefix_seconds = time.perf_counter() - began

    def epochs(self) -> None:
        """Train; keep a copy of the best epoch's weights."""
        if self.val_rows:
            self.before = self._evaluate("before training").metrics("val_")
        order = list(self.train_rows)
        shuffler = random.Random(self.config.seed)
        lowest = math.inf
        for epoch in range(1, self.config.epochs + 1):
            began = time.perf_counter()
            shuffler.shuffle(order)
            rate = learning_rate(self.config, self.step, self.num_steps)
            entry: dict[str, float] = {"epoch": epoch, "train_loss": self._epoch(epoch, order), "learning_rate": rate}
            entry["seconds"] = time.perf_counter() - began
            self._check_weights(order[-self.config.batch_size :])
            if self.val_rows:
                entry |= self._evaluate(f"epoch {epoch}/{self.config.epochs}").metrics("val_")
            self.history.append(entry)
            # Without validation there is nothing to choose by: the last epoch is saved.
            if not self.val_rows or entry["val_loss"] < lowest:
                lowest = entry.get("val_loss", lowest)
                self.best_epoch, self.best_tensors = epoch, self.model.lora.snapshot()

    def report(self, started: float, path: Path, truncated: int) -> TrainReport:
        """The figures of the finished run."""
        kept = self.model.prefixes
        best = self.history[self.best_epoch - 1]
        tokens = sum(self.examples[row].num_tokens for row in self.train_rows) * self.config.epochs
        busy = self.prefix_seconds + sum(entry["seconds"] for entry in self.history)
        return TrainReport(
            history=self.history,
            best_epoch=self.best_epoch,
            metrics={name: best[name] for name in ("train_loss", "val_loss", "accuracy") if name in best},
            before=self.before,
            num_train=len(self.train_rows),
            num_val=len(self.val_rows),
            truncated=truncated,
            prefixes={"kept": kept.num_kept, "recomputed": kept.num_recomputed, "tokens_kept": kept.tokens_kept},
            prefix_seconds=self.prefix_seconds,
            seconds=time.perf_counter() - started,
            tokens_per_s=tokens / busy,
            path=path,
        )

    def _epoch(self, epoch: int, order: Sequence[int]) -> float:
        """All training rows once; returns the mean loss of their label tokens, in nats."""
        self.model.lora.training = True
        total, num_tokens = 0.0, 0
        for first in range(0, len(order), self.group_size):
            group = order[first : first + self.group_size]
            group_tokens = sum(len(self.model.answer(self.examples[row])) for row in group)
            total += self._optimizer_step(group, group_tokens)
            num_tokens += group_tokens
            message = f"epoch {epoch}/{self.config.epochs}, loss {total / num_tokens:.4f}"
            self.notify(ProgressEvent("train", self.step, self.num_steps, message))
        return total / num_tokens

    def _optimizer_step(self, group: Sequence[int], group_tokens: int) -> float:
        """One update from the mean over the group's label tokens; returns their summed loss."""
        cfg, total = self.config, 0.0
        self.optimizer.zero_grad()
        for first in range(0, len(group), cfg.batch_size):
            batch = [self.examples[row] for row in group[first : first + cfg.batch_size]]
            loss = -self.model.log_probabilities(batch, [[self.model.answer(e)] for e in batch]).sum()
            total += loss.item()
            if not math.isfinite(total):
                raise self._diverged("loss", total, group[first : first + cfg.batch_size])
            (loss / group_tokens).backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.lora.parameters(), cfg.max_grad_norm).item()
        if not math.isfinite(norm):
            raise self._diverged("gradient norm", norm, group)
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = learning_rate(cfg, self.step, self.num_steps)
        self.optimizer.step()
        self.step += 1
        return total

    def _check_weights(self, rows: Sequence[int]) -> None:
        """See that the epoch's last step did no harm, for no later training loss would show it."""
        if not all(bool(weights.isfinite().all()) for weights in self.model.lora.parameters()):
            raise self._diverged("an adapter weight", math.nan, rows)
        # Finite weights can overflow where they are used; with validation, that comes to light there.
        if not self.val_rows:
            found = [self.examples[row] for row in rows]
            loss = evaluate(self.model, found, self.answers, self.labels, self.decode).loss
            if not math.isfinite(loss):
                raise self._diverged("loss", loss, rows)

    def _evaluate(self, when: str) -> Evaluation:
        found = evaluate(
            self.model,
            [self.examples[row] for row in self.val_rows],
            self.answers,
            self.labels,
            self.decode,
            lambda done, total: self.notify(ProgressEvent("evaluate", done, total, f"validating, {when}")),
        )
        if not math.isfinite(found.loss):
            raise self._diverged("validation loss", found.loss, self.val_rows)
        return found

    def _diverged(self, what: str, value: float, rows: Sequence[int]) -> TrainingError:
        named = ", ".join(str(row + 1) for row in rows[:8]) + (", …" if len(rows) > 8 else "")
        step = min(self.step + 1, self.num_steps)
        return TrainingError(
            f"{what} is {value} at optimizer step {step} of {self.num_steps}, rows {named}; "
            f"try a learning_rate below {self.config.learning_rate:g}, or dtype='float32'"
        )


def _manifest(base: ResolvedModel, examples: Sequence[Example], config: TrainConfig, report: TrainReport) -> Manifest:
    first = examples[0]
    if isinstance(examples, ExampleList):
        invocation = examples.invocation
    else:
        tokenizer = Tokenizer.from_pretrained(base.path)
        invocation = tokenizer.decode(first.invocation_ids, skip_special_tokens=False)
    return Manifest(
        layout=first.layout,
        requirements=first.requirement,
        labels=tuple(label_ids(examples)),
        pass_labels=config.pass_labels,
        fail_labels=config.fail_labels,
        base_model=base.name,
        invocation=invocation,
        capability=config.capability,
        metrics=report.metrics,
    )


def _silent(event: ProgressEvent) -> None:
    """Progress that nobody asked for."""
