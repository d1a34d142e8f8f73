"""What a training run would do and need, without doing it: steps, kept prefixes, time and memory.

Only the model's configuration and tokenizer are read, and nothing is written anywhere.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from alorakit.engine.devices import free_memory, pick_device, pick_dtype
from alorakit.engine.model_config import ModelConfig
from alorakit.engine.pretrained import resolve_model
from alorakit.engine.tokenizer import Tokenizer
from alorakit.training.adapter_folder import folder_problem
from alorakit.training.answers import answers_of
from alorakit.training.config import TrainConfig
from alorakit.training.costs import ModelCosts
from alorakit.training.data import Example
from alorakit.training.data_report import DataReport, describe
from alorakit.training.passes import tokens_per_pass
from alorakit.training.prepare import check_examples, check_fit, prefix_budgets, split
from alorakit.training.work import PrefixPlan, Seconds, Work

PREFIX_ROWS = 1024


@dataclass(frozen=True)
class Memory:
    """Estimated bytes at the highest point.

    Attributes:
        weights: The base model.
        prefixes: Kept keys and values.
        adapter: Adapter, gradients and optimizer state.
        activations: Of one batch.
        total: The sum.
        free: What the device has free now.
    """

    weights: int
    prefixes: int
    adapter: int
    activations: int
    total: int
    free: int


@dataclass(frozen=True)
class Plan:
    """What :func:`plan` found.

    Attributes:
        base_model: The base model's name.
        device: Device of the run.
        dtype: Compute dtype of the base model.
        data: What the rows hold.
        truncated: Rows that were cut to fit, validation's included.
        epochs: Passes over the training rows.
        steps_per_epoch: Optimizer steps of each.
        steps: Optimizer steps in all.
        parameters: The base model's.
        trainable: The adapter's.
        rows: Rows that go through forward and backward in an epoch: from the activation points on.
        activation_checkpointing: Whether activations are computed again in the backward pass.
        prefixes: Kept contexts.
        seconds: Estimated time.
        memory: Estimated memory.
    """

    base_model: str
    device: str
    dtype: str
    data: DataReport
    truncated: int
    epochs: int
    steps_per_epoch: int
    steps: int
    parameters: int
    trainable: int
    rows: int
    activation_checkpointing: bool
    prefixes: PrefixPlan
    seconds: Seconds
    memory: Memory

    def lines(self) -> list[str]:
        """A few lines for people; those of :attr:`data` are its own."""
        kept, time, memory = self.prefixes, self.seconds, self.memory
        lines = [
            f"model      {self.base_model}, {self.parameters / 1e6:.0f}M parameters, {self.dtype} on {self.device}; "
            f"the adapter has {self.trainable / 1e6:.2f}M",
            f"steps      {self.epochs} epochs of {self.steps_per_epoch}, {self.steps} in all; "
            f"{self.rows} rows an epoch go through forward and backward",
        ]
        if kept.distinct:
            again = f", {kept.recomputed} computed again in every epoch" if kept.recomputed else ""
            lines.append(
                f"prefixes   {kept.distinct} of {kept.tokens} tokens, {readable(kept.bytes)} of at most "
                f"{readable(kept.budget)}: {kept.kept} kept{again}"
            )
        lines.append(
            f"time       about {duration(time.total)}: prefixes {duration(time.prefixes)}, training "
            f"{duration(time.training)}, validation {duration(time.validation)}"
        )
        again = " (computed again in the backward pass)" if self.activation_checkpointing else ""
        lines.append(
            f"memory     about {readable(memory.total)} of {readable(memory.free)} free: weights "
            f"{readable(memory.weights)}, prefixes {readable(memory.prefixes)}, adapter and optimizer "
            f"{readable(memory.adapter)}, activations {readable(memory.activations)}{again}"
        )
        if memory.total > memory.free:
            lines.append("warning    more than is free; lower max_length or prefix_memory")
        return lines


def plan(
    base_model: str | Path,
    examples: Sequence[Example],
    config: TrainConfig,
    validation: Sequence[Example] | None = None,
) -> Plan:
    """Say what :func:`~alorakit.training.train` would do with the same arguments.

    No weights are loaded and no file is written; a base model that is on the Hub only is fetched, as by any use. Time
    comes from counted operations and a rate that is measured here for some tenths of a second, early stopping left out.

    Args:
        base_model: Folder or Hub id.
        examples: Rows of :func:`~alorakit.training.load_examples`.
        config: Settings of the run.
        validation: Rows to validate on; None: a share of ``examples``.

    Raises:
        TrainingError: The rows do not fit the model.
        AlorakitError: The rows or the base model cannot be used, as in training.
    """
    check_examples(examples, config, validation or ())
    base = resolve_model(base_model)
    shape = ModelConfig.from_folder(base.path)
    check_fit(base, shape, Tokenizer.from_pretrained(base.path).eos_token_id, [*examples, *(validation or ())])
    device = pick_device(config.device)
    dtype = pick_dtype(config.dtype, device)
    costs, answers = ModelCosts(shape, dtype.itemsize), answers_of(examples, config)
    if validation is None:
        train_rows, val_rows = split(len(examples), config.val_fraction, config.seed)
        training, validating = [examples[row] for row in train_rows], [examples[row] for row in val_rows]
    else:
        training, validating = list(examples), list(validation)
    free, weights = free_memory(device), costs.parameters * costs.element_size
    budget = sum(prefix_budgets(config.prefix_memory, device, weights))
    work = Work(costs, config, answers, training, validating, budget, tokens_per_pass(device))
    again, activations = work.activations(free - weights)
    adapter, kept_bytes = costs.adapter_bytes(config), work.kept_bytes
    steps = math.ceil(len(training) / (config.batch_size * config.grad_accum))
    needed = weights + kept_bytes + adapter + activations
    rate = costs.rate(PREFIX_ROWS, device, dtype)
    return Plan(
        base_model=base.name,
        device=str(device),
        dtype=str(dtype).removeprefix("torch."),
        data=describe(training, validating, answers),
        truncated=sum(getattr(rows, "truncated", 0) for rows in (examples, validation)),
        epochs=config.epochs,
        steps_per_epoch=steps,
        steps=config.epochs * steps,
        parameters=costs.parameters,
        trainable=costs.adapter_parameters(config),
        rows=sum(map(work.num_rows, training)),
        activation_checkpointing=again,
        prefixes=work.prefixes(),
        seconds=work.seconds(rate, costs.rate(work.batch_rows, device, dtype), again),
        memory=Memory(weights, kept_bytes, adapter, activations, needed, free),
    )


def outfile_problem(outfile: str | Path) -> str | None:
    """Why an adapter folder could not be written, or None; nothing is tried, so some reasons show only in the run."""
    try:
        target = Path(outfile).expanduser().resolve()
        if problem := folder_problem(outfile, target):
            return problem
        ancestor = next(parent for parent in target.parents if parent.exists())
        if not ancestor.is_dir():
            return f"outfile {outfile}: cannot be written ({ancestor} is a file); name another folder"
        if not os.access(ancestor, os.W_OK | os.X_OK):
            return f"outfile {outfile}: cannot be written (no permission in {ancestor}); name another folder"
        longest = os.pathconf(ancestor, "PC_NAME_MAX") if hasattr(os, "pathconf") else 255
        if name := next((part for part in target.parts if len(os.fsencode(part)) > longest), None):
            return f"outfile {outfile}: cannot be written (the name {name!r:.40} is too long); name another folder"
    except (OSError, ValueError, RuntimeError) as exc:  # RuntimeError: the home folder of nobody
        return f"outfile {outfile}: cannot be written ({exc}); name another folder"
    return None


def readable(size: float) -> str:
    """Bytes for people, by powers of 1024."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 10 else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def duration(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
