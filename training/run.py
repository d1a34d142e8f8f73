"""The epochs of a run: prefixes once, then suffixes; what is best is kept, and where it stands is written down."""

import math
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alorakit.engine.errors import TrainingError, TrainingInterrupted
from alorakit.training.adapter_folder import STATE_NAME
from alorakit.training.answers import answers_of
from alorakit.training.config import ProgressEvent, TrainConfig
from alorakit.training.data import Example
from alorakit.training.evaluate import Evaluation, evaluate, label_ids
from alorakit.training.interrupt import Interrupt
from alorakit.training.loss import SuffixModel
from alorakit.training.metrics import Classification, fit_temperature
from alorakit.training.passes import needs_checkpointing, passes
from alorakit.training.prepare import split
from alorakit.training.schedule import learning_rate
from alorakit.training.state import Identity, Progress, State


class Run:
    """State of one run; rows are addressed by index, so that errors can name them.

    Attributes:
        model: Base model and adapter.
        given: The rows as they were given.
        examples: All rows, those for validation last.
        train_rows: Indices of the rows to train on.
        val_rows: Indices of the rows to validate on.
        num_steps: Optimizer steps of all epochs.
        at: Where the run is.
        best_tensors: The best epoch's adapter, by PEFT's names.
        prefix_seconds: Time of the prefix pass.
    """

    def __init__(
        self,
        model: SuffixModel,
        examples: Sequence[Example],
        validation: Sequence[Example] | None,
        config: TrainConfig,
        decode: Callable[[Sequence[int]], str],
        notify: Callable[[ProgressEvent], None],
        interrupt: Interrupt,
        folder: Path,
        identity: Identity,
        started: float,
    ) -> None:
        """Set out; the adapter's weights are those of ``model``; ``started``: what the clock said at the beginning."""
        self.model, self.config, self.folder, self.identity = model, config, folder, identity
        self.given = examples
        self.truncated = sum(getattr(rows, "truncated", 0) for rows in (examples, validation))
        self.examples = [*examples, *(validation or ())]
        if validation is None:
            self.train_rows, self.val_rows = split(len(examples), config.val_fraction, config.seed)
        else:
            self.train_rows = split(len(examples), 0.0, config.seed)[0]
            self.val_rows = list(range(len(examples), len(self.examples)))
        self.answers, self.labels = answers_of(examples, config), label_ids(examples)
        self.num_steps = config.epochs * math.ceil(len(self.train_rows) / self.rows_per_step)
        self.at, self.best_tensors = Progress(budgets=model.prefixes.budgets), dict[str, Tensor]()
        self.prefix_seconds = 0.0
        self._decode, self._notify, self._interrupt, self._began = decode, notify, interrupt, started
        self.optimizer = torch.optim.AdamW(
            model.lora.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )

    @property
    def rows_per_step(self) -> int:
        """Rows of an optimizer step."""
        return self.config.batch_size * self.config.grad_accum

    @property
    def stopped_early(self) -> bool:
        """Whether early stopping ends it: so many finished epochs were no better than the best one."""
        patience = self.config.early_stopping
        return bool(self.val_rows and patience and len(self.at.history) - self.at.best_epoch >= patience)

    @property
    def seconds(self) -> float:
        """Time of the whole run so far, other processes' included."""
        return self.at.spent + time.perf_counter() - self._began

    def _fill_prefixes(self) -> None:
        """Compute what lies before the activation points, once, and see whether activations fit."""
        began = time.perf_counter()
        kept = self.model.prefixes
        kept.fill(
            (self.model.prefix(self.examples[row]) for row in (*self.train_rows, *self.val_rows)),
            lambda done, total: self._tell("prefix", done, total, "prefixes computed"),
        )
        self.prefix_seconds = time.perf_counter() - began
        if kept.num_kept or kept.num_recomputed:
            self._tell("prefix", kept.num_kept, kept.num_kept, f"{kept.summary()}; {self.prefix_seconds:.1f} s")
        rows = [self.examples[row] for row in self.train_rows]
        self.model.checkpointing = needs_checkpointing(self.model, rows, self.config)

    def train(self) -> None:
        """Compute prefixes, then train from where the run is; keep a copy of the best epoch's weights.

        Raises:
            TrainingInterrupted: Somebody asked; a checkpoint is written.
            TrainingError: A loss or a weight is not finite, or a checkpoint cannot be written.
        """
        try:
            self._fill_prefixes()
            if self.val_rows and not self.at.before:
                self.at.before = self._evaluate("before training").metrics("val_")
            while self.at.epoch <= self.config.epochs and not self.stopped_early:
                self._epoch()
        except TrainingInterrupted:
            self._save()
            raise TrainingInterrupted(
                f"stopped at step {self.at.step} of {self.num_steps}; {self.folder / STATE_NAME} holds what was reached"
            ) from None

    def _epoch(self) -> None:
        """The epoch under way, or what is left of it."""
        at, order = self.at, self._order(self.at.epoch)
        while at.rows < len(order):
            began = time.perf_counter()
            group = order[at.rows : at.rows + self.rows_per_step]
            tokens = sum(self.examples[row].weight * len(self.model.answer(self.examples[row])) for row in group)
            total = self._optimizer_step(group, tokens)
            at.rows += len(group)
            at.step += 1
            at.loss += total
            at.tokens += tokens
            at.steps.append(total / tokens)
            at.seconds += time.perf_counter() - began
            message = f"epoch {at.epoch}/{self.config.epochs}, loss {at.loss / at.tokens:.4f}"
            self._tell("train", at.step, self.num_steps, message)
            if self.config.save_steps and at.step % self.config.save_steps == 0:
                self._check_finite(group)
                self._save()
        self._check_weights(order[-self.config.batch_size :])
        first = math.ceil(len(order) / self.rows_per_step) * (at.epoch - 1)
        rate = learning_rate(self.config, first, self.num_steps)
        entry = {"epoch": at.epoch, "train_loss": at.loss / at.tokens, "learning_rate": rate, "seconds": at.seconds}
        found = self._evaluate(f"epoch {at.epoch}/{self.config.epochs}") if self.val_rows else None
        if found is not None:
            entry |= found.metrics("val_")
        at.history.append(entry)
        if self._is_best(entry):
            at.best_epoch, at.best, self.best_tensors = at.epoch, self._found(found), self.model.lora.snapshot()
        at.epoch, at.rows, at.loss, at.tokens, at.seconds = at.epoch + 1, 0, 0.0, 0.0, 0.0
        self._save()

    def _is_best(self, entry: dict[str, float]) -> bool:
        """Whether the epoch just recorded is better than the best one; without validation the last one counts."""
        if not self.val_rows or not self.at.best_epoch:
            return True
        best = self.at.history[self.at.best_epoch - 1]
        if self.config.best_by == "accuracy" and entry["accuracy"] != best["accuracy"]:
            return entry["accuracy"] > best["accuracy"]
        return entry["val_loss"] < best["val_loss"]

    def _found(self, found: Evaluation | None) -> dict[str, Any]:
        """What a validation says beside its figures: calibration and classes."""
        if found is None or self.answers.kind != "label":
            return {}
        names = list(self.labels)
        truth = [self.examples[row].label for row in self.val_rows]
        classes = Classification.of(truth, found.predictions, names)
        # All right, the likelihood only grows with confidence: there is nothing to fit.
        right = found.accuracy == 1.0
        return {
            "temperature": 1.0 if right else fit_temperature(found.scores, [names.index(label) for label in truth]),
            "confusion": [list(row) for row in classes.confusion],
            "per_class": [[name, c.precision, c.recall, c.f1, c.support] for name, c in classes.classes.items()],
        }

    def _order(self, epoch: int) -> list[int]:
        """The training rows as epoch ``epoch`` takes them."""
        order, shuffler = list(self.train_rows), random.Random(self.config.seed)
        for _ in range(epoch):
            shuffler.shuffle(order)
        return order

    def _optimizer_step(self, group: Sequence[int], group_tokens: float) -> float:
        """One update from the mean over the group's label tokens, rows by weight; returns their summed loss."""
        cfg, total = self.config, 0.0
        self.model.lora.training = True
        self.optimizer.zero_grad()
        for rows in passes(self.model, self.examples, group):
            batch = [self.examples[row] for row in rows]
            values = self.model.log_probabilities(batch, [[self.model.answer(e)] for e in batch])
            weights = [e.weight for e in batch for _ in self.model.answer(e)]
            loss = -(values * torch.tensor(weights, device=values.device)).sum()
            total += loss.item()
            if not math.isfinite(total):
                raise self._diverged("loss", total, rows, self.at.step + 1)
            (loss / group_tokens).backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.lora.parameters(), cfg.max_grad_norm).item()
        if not math.isfinite(norm):
            raise self._diverged("gradient norm", norm, group, self.at.step + 1)
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = learning_rate(cfg, self.at.step, self.num_steps)
        self.optimizer.step()
        return total

    def _check_weights(self, rows: Sequence[int]) -> None:
        """See that the epoch's last step did no harm, for no later training loss would show it."""
        self._check_finite(rows)
        # Finite weights can overflow where they are used; with validation, that comes to light there.
        if not self.val_rows:
            batch = [self.examples[row] for row in rows]
            self.model.lora.training = False
            with torch.no_grad():
                loss = -self.model.log_probabilities(batch, [[self.model.answer(e)] for e in batch]).sum().item()
            if not math.isfinite(loss):
                raise self._diverged("loss", loss, rows, self.at.step)

    def _check_finite(self, rows: Sequence[int]) -> None:
        if not all(bool(weights.isfinite().all()) for weights in self.model.lora.parameters()):
            raise self._diverged("an adapter weight", math.nan, rows, self.at.step)

    def _evaluate(self, when: str) -> Evaluation:
        found = evaluate(
            self.model,
            [self.examples[row] for row in self.val_rows],
            self.answers,
            self.labels,
            self._decode,
            lambda done, total: self._tell("evaluate", done, total, f"validating, {when}"),
        )
        if not math.isfinite(found.loss):
            raise self._diverged("validation loss", found.loss, self.val_rows, self.at.step)
        return found

    def _tell(self, stage: str, done: int, total: int, message: str) -> None:
        """Report; between steps and prefixes is where a run can stop."""
        self._notify(ProgressEvent(stage, done, total, message))
        if self._interrupt.asked:
            raise TrainingInterrupted("asked to stop")

    def _diverged(self, what: str, value: float, rows: Sequence[int], step: int) -> TrainingError:
        own = rows[0] >= len(self.given)  # rows of a validation file are counted by themselves
        numbers = [str(self.examples[row].line or row + 1 - own * len(self.given)) for row in rows[:8]]
        named = ("validation rows " if own else "rows ") + ", ".join(numbers) + (", …" if len(rows) > 8 else "")
        state = self.folder / STATE_NAME
        # Its weights may be good still, so it stays; but resuming it leads here again.
        left = f"; {state} is the last checkpoint: delete it to start again" if state.exists() else ""
        return TrainingError(
            f"{what} is {value} at optimizer step {step} of {self.num_steps}, {named}; "
            f"try a learning_rate below {self.config.learning_rate:g}, or dtype='float32'{left}"
        )

    def _save(self) -> None:
        """Write a checkpoint."""
        tensors = {f"best.{name}": tensor for name, tensor in self.best_tensors.items()}
        tensors["generator.cpu"] = torch.get_rng_state()
        if self.model.decoder.device.type == "cuda":
            tensors["generator.cuda"] = torch.cuda.get_rng_state(self.model.decoder.device)
        for index, weights in enumerate(self.model.lora.parameters()):
            tensors[f"adapter.{index}"] = weights.detach()
            for name, value in self.optimizer.state.get(weights, {}).items():
                tensors[f"{name}.{index}"] = value
        self.at.spent, self._began = self.seconds, time.perf_counter()
        State(self.identity, self.at, tensors).write(self.folder)

    def restore(self, state: State) -> None:
        """Go back to a checkpoint of this run."""
        tensors, device = state.tensors, self.model.decoder.device
        self.at = state.progress
        self.best_tensors = {name[5:]: tensor for name, tensor in tensors.items() if name.startswith("best.")}
        with torch.no_grad():
            for index, weights in enumerate(self.model.lora.parameters()):
                weights.copy_(tensors[f"adapter.{index}"])
                names = [name for name in ("step", "exp_avg", "exp_avg_sq") if f"{name}.{index}" in tensors]
                if names:
                    self.optimizer.state[weights] = {name: tensors[f"{name}.{index}"].to(device) for name in names}
        torch.set_rng_state(tensors["generator.cpu"])
        if device.type == "cuda" and "generator.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["generator.cuda"], device)
