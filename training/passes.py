"""Which rows of an optimizer step go through the model together: as many as memory likes, for the sum is the same."""

from collections.abc import Iterator, Sequence

import torch

from alorakit.engine.devices import free_memory
from alorakit.training.config import TrainConfig
from alorakit.training.costs import ModelCosts
from alorakit.training.data import Example
from alorakit.training.loss import SuffixModel

# Beyond these many rows of a matrix product a device gains nothing.
TOKENS_PER_PASS = {"cpu": 1024, "cuda": 8192, "mps": 4096}
# Prefixes that are not kept are computed for a pass, and stay until its end.
PREFIX_TOKENS_PER_PASS = 8192


def passes(model: SuffixModel, examples: Sequence[Example], rows: Sequence[int]) -> Iterator[list[int]]:
    """Cut ``rows``, indices of ``examples``, into consecutive passes of at least one row."""
    limit = tokens_per_pass(model.decoder.device)
    group: list[int] = []
    entering = anew = 0
    for row in rows:
        example = examples[row]
        own = len(model.trunk(example)) + len(example.label_ids)
        missing = model.prefixes.num_missing(model.prefix(example))
        if group and (entering + own > limit or anew + missing > PREFIX_TOKENS_PER_PASS):
            yield group
            group, entering, anew = [], 0, 0
        group.append(row)
        entering, anew = entering + own, anew + missing
    if group:
        yield group


def tokens_per_pass(device: torch.device) -> int:
    """Tokens that enter the model together, on a device."""
    return TOKENS_PER_PASS[device.type]


def needs_checkpointing(model: SuffixModel, examples: Sequence[Example], config: TrainConfig) -> bool:
    """Whether activations of the largest pass are to be computed again instead of kept: if they fill half of memory."""
    if config.activation_checkpointing is not None:
        return config.activation_checkpointing
    decoder = model.decoder
    largest = max(examples, key=lambda e: len(model.trunk(e)) + len(e.label_ids))
    own = len(model.trunk(largest)) + len(largest.label_ids)
    num_rows = max(tokens_per_pass(decoder.device), own)
    context = len(model.prefix(largest)) * max(num_rows // own, 1)
    costs = ModelCosts(decoder.config, decoder.dtype.itemsize)
    return (
        costs.activation_bytes(num_rows, context, len(largest.label_ids) + 1, False) > free_memory(decoder.device) // 2
    )
