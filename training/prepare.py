"""What a run needs before its first step: checked rows, their split, and the model."""

import random
from collections.abc import Sequence

import torch

from alorakit.engine.devices import free_memory, keep_freed_memory, pick_device, pick_dtype
from alorakit.engine.errors import ConfigError, DataError, TrainingError
from alorakit.engine.model_config import ModelConfig
from alorakit.engine.pretrained import ResolvedModel
from alorakit.engine.tokenizer import Tokenizer
from alorakit.engine.weights import load_decoder
from alorakit.training.answers import EXTRA_TOKENS, answers_of, parsed
from alorakit.training.config import TrainConfig
from alorakit.training.data import Example
from alorakit.training.lora import LoraWeights
from alorakit.training.loss import SuffixModel
from alorakit.training.prefix_cache import PrefixCache


def check_examples(examples: Sequence[Example], config: TrainConfig, validation: Sequence[Example] = ()) -> None:
    """Rows must be enough, of one kind, and have the labels that the settings name.

    Args:
        examples: Rows to train on; where ``validation`` is empty, a share of them is held out.
        config: Settings.
        validation: Rows that were given for validation.

    Raises:
        DataError: Fewer than two rows; rows of several layouts or invocations; one label only; validation rows with
            a label that is never trained, or without the field that texts are counted by.
        ConfigError: ``pass_labels`` or ``fail_labels`` name a label that no row has, or a setting needs validation
            rows where there are none.
    """
    if len(examples) < 2:
        raise DataError(f"{len(examples)} rows; training needs at least 2, better some hundreds")
    if not validation and config.val_fraction == 0:
        needs = [] if config.early_stopping is None else [f"early_stopping={config.early_stopping}"]
        needs += ["best_by='accuracy'"] if config.best_by == "accuracy" else []
        if needs:
            raise ConfigError(
                f"{' and '.join(needs)} needs validation rows, and val_fraction=0 holds none out; give some, or leave "
                "it out"
            )
    kinds = {(e.layout, e.requirement, e.invocation_ids) for e in (*examples, *validation)}
    having = [{e.requirement for e in rows} for rows in (examples, validation)]
    if validation and all(len(each) == 1 for each in having) and having[0] != having[1]:
        with_one, without = ("training", "validation") if True in having[0] else ("validation", "training")
        raise DataError(
            f"{with_one} rows have requirements, {without} rows have none; give one to every row, or to none"
        )
    if len(kinds) > 1:
        raise DataError(
            "rows differ in layout, invocation or in having a requirement; load those of training and validation with "
            "the same settings"
        )
    labels = {e.label for e in examples}
    for name in ("pass_labels", "fail_labels"):
        if unknown := sorted(set(getattr(config, name) or ()) - labels):
            raise ConfigError(f"{name} has {unknown}, which no row has; the rows' labels are {sorted(labels)}")
    answers = answers_of(examples, config)
    if answers.kind == "label":
        if len(labels) == 1:
            raise DataError(
                f"every row has the label {examples[0].label!r:.80}, so there is nothing to tell apart; give rows of "
                "two labels or more, or answer='text' to have it generated"
            )
        if strangers := [e for e in validation if e.label not in labels]:
            raise DataError(
                f"validation rows have labels that no training row has: {_named(strangers)}; add rows of these labels "
                "to the training data, correct them, or use answer='text'"
            )
    elif answers.field is not None and (broken := [e for e in validation if parsed(e.label, answers.field) is None]):
        raise DataError(
            f"validation rows have labels that are no JSON object with the field {answers.field!r}, by which accuracy "
            f"is counted: {_named(broken)}; correct them, or name another field"
        )


def _named(examples: Sequence[Example], most: int = 5) -> str:
    """The labels of the first few rows, with their lines where they have one."""
    named = [f"{e.label!r:.80}" + (f" (line {e.line})" if e.line else "") for e in examples[:most]]
    return ", ".join(named) + (f" and {len(examples) - most} more" if len(examples) > most else "")


def check_fit(base: ResolvedModel, shape: ModelConfig, eos_id: int | None, examples: Sequence[Example]) -> None:
    """The model must be able to read the rows and to close labels.

    Raises:
        TrainingError: No EOS token, a row longer than the model's context, or rows of another tokenizer.
    """
    if eos_id is None:
        raise TrainingError(f"{base.name}: its tokenizer has no eos_token to close labels with; use an instruct model")
    longest = max(e.num_tokens for e in examples)
    if longest > shape.max_position_embeddings:
        raise TrainingError(
            f"the longest row has {longest} tokens, the model's context has {shape.max_position_embeddings}; "
            f"load the rows with max_length={shape.max_position_embeddings} or less"
        )
    highest = max(max(e.prefix_ids + e.invocation_ids + e.label_ids) for e in examples)
    if highest >= shape.vocab_size:
        raise TrainingError(
            f"token id {highest} is beyond the model's vocabulary of {shape.vocab_size}; "
            f"load the rows with the tokenizer of {base.name}"
        )


def split(num_rows: int, val_fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Indices of (training, validation) rows, shuffled by ``seed``; at least one of each unless the fraction is 0."""
    order = list(range(num_rows))
    random.Random(seed).shuffle(order)
    num_val = 0 if val_fraction == 0 else min(max(round(num_rows * val_fraction), 1), num_rows - 1)
    return order[num_val:], order[:num_val]


def build_model(
    base: ResolvedModel, examples: Sequence[Example], config: TrainConfig, budgets: tuple[int, int] | None = None
) -> SuffixModel:
    """Load the base model, unpacked, and put a fresh adapter beside it (weights from torch's generator).

    Args:
        base: The model.
        examples: All rows, those for validation included.
        config: Settings.
        budgets: Bytes for kept prefixes on the device and in host memory; None: as ``config.prefix_memory`` says.

    Raises:
        TrainingError: No EOS token, a row longer than the model's context, or rows of another tokenizer.
        AlorakitError: The model cannot be loaded, or the device is not there.
    """
    device = pick_device(config.device)
    dtype = pick_dtype(config.dtype, device)
    shape = ModelConfig.from_folder(base.path)
    eos_id = Tokenizer.from_pretrained(base.path).eos_token_id
    check_fit(base, shape, eos_id, examples)
    assert eos_id is not None
    # Validation lays the longest label after the longest row, or generates a little more than that.
    positions = max(e.num_tokens for e in examples) + max(len(e.label_ids) for e in examples) + EXTRA_TOKENS
    decoder = load_decoder(base.path, shape, dtype, device, positions)
    if device.type == "cpu":
        keep_freed_memory()
        decoder.widen()
    lora = LoraWeights(shape, config.targets, config.effective_rank, config.alpha, config.dropout, device)
    cache = PrefixCache(decoder, *(budgets or prefix_budgets(config.prefix_memory, device)))
    return SuffixModel(decoder, lora, cache, config.adapter == "alora", eos_id)


def prefix_budgets(prefix_memory: int | None, device: torch.device, weights: int = 0) -> tuple[int, int]:
    """Bytes for kept prefixes, on the device and in host memory beside it.

    Args:
        prefix_memory: Of both together; None: half of what is free in each.
        device: Where the model is.
        weights: Bytes that the model is going to take, if it is not loaded yet.
    """
    free = max(free_memory(device) - weights, 0) // 2
    if device.type == "cpu":
        return (free if prefix_memory is None else prefix_memory), 0
    host = free_memory(torch.device("cpu")) // 2
    if prefix_memory is None:
        return free, host
    on_device = min(prefix_memory, free)
    return on_device, min(prefix_memory - on_device, host)


def fork_devices(device: torch.device) -> list[torch.device]:
    """What ``torch.random.fork_rng`` must save beside the CPU's generator."""
    return [device] if device.type == "cuda" else []
