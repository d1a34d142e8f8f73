"""Runs a batch through the model."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from alorakit.engine.attention import CachedAttention, KVCache
from alorakit.engine.batch import Batch
from alorakit.engine.errors import NumericsError
from alorakit.engine.model import Decoder
from alorakit.engine.schedule import Entry


class Runner:
    """Owns the model and the KV cache's memory."""

    def __init__(self, model: Decoder, cache: KVCache) -> None:
        """A runner of ``model`` over ``cache``."""
        self.model, self.cache = model, cache

    def free(self) -> None:
        """Let go of the weights' and the cache's memory; the runner cannot run any more."""
        self.model.release()
        self.cache.data = self.cache.data.new_empty(0)

    @torch.inference_mode()
    def run(self, batch: Batch) -> Tensor:
        """Copy blocks, run the model, and return float32 logits [len(logits_rows), vocab_size].

        Sequences whose rows are not finite get a NumericsError; the others are not touched by that.
        """
        if not batch.entries:
            return self.model.embedding.new_empty(0, self.model.config.vocab_size, dtype=torch.float32)
        for copy in batch.copies:
            self.cache.copy_rows(copy.source, copy.dest, copy.rows)
        attention = CachedAttention(self.cache, self.model.config, batch.attention)
        hidden = self.model.forward(batch.token_ids, batch.positions, attention, batch.adapters)
        if not math.isfinite(hidden.sum(dtype=torch.float32)):
            self._mark_failed(hidden, batch)
        wanted = hidden[batch.logits_rows]
        if not len(wanted):
            return wanted.float()
        logits = self.model.logits(wanted)
        if not math.isfinite(logits.sum()):
            _mark_logits(logits, batch)
        return logits

    def _mark_failed(self, hidden: Tensor, batch: Batch) -> None:
        """Give every entry that has a row with NaN or infinity its error, and clear what it wrote to the cache."""
        for entry, rows in _not_finite(hidden, batch.entries, [entry.num_rows for entry in batch.entries]):
            name = entry.sequence.adapter_name
            who = "the base model" if name is None else f"adapter {name!r}"
            entry.sequence.error = NumericsError(
                f"{who} computed values that are not finite (tokens {entry.start} to "
                f"{entry.start + entry.num_tokens - 1}); check its weights, or use dtype='float32'"
            )
            self.cache.forget(batch.attention.slots[rows])


def _mark_logits(logits: Tensor, batch: Batch) -> None:
    """Give every entry its error whose states are finite and whose logits are not: the output layer overflows."""
    for entry, _ in _not_finite(logits, batch.wanted, [len(entry.logits_rows) for entry in batch.wanted]):
        entry.sequence.error = entry.sequence.error or NumericsError(
            f"the model's logits after token {entry.start + entry.num_tokens - 1} are not finite; check lm_head"
        )


def _not_finite(values: Tensor, entries: list[Entry], sizes: list[int]) -> Iterator[tuple[Entry, slice]]:
    """The entries, and their rows of ``values``, that hold NaN or infinity; entry i has ``sizes[i]`` rows."""
    row = 0
    for entry, size in zip(entries, sizes, strict=True):
        rows = slice(row, row + size)
        if not values[rows].isfinite().all():
            yield entry, rows
        row += size
