"""Runs a batch through the model in torch."""

import math
from typing import Any, Protocol

import torch
from torch import Tensor

from alorakit.engine import batch as batches
from alorakit.engine.adapter_slots import AdapterSlots
from alorakit.engine.attention import CachedAttention, KVCache
from alorakit.engine.batch import Batch
from alorakit.engine.captured_step import GraphPool
from alorakit.engine.devices import pick_backend
from alorakit.engine.model import Decoder
from alorakit.engine.numerics import mark_hidden, mark_logits
from alorakit.engine.schedule import Schedule


class AnyRunner(Protocol):
    """What the loop needs of a runner."""

    model: Decoder
    cache: KVCache
    graphs: GraphPool

    def build(self, plan: Schedule) -> Any:
        """What :meth:`run` takes; ``wanted`` are the entries whose logits come back, in order."""

    def run(self, batch: Any) -> Tensor:
        """float32 logits [len(logits_rows), vocab_size]; need not be there yet on a GPU."""

    def check(self) -> None:
        """Mark the sequences of the last pass whose values are not finite."""

    def free(self) -> None:
        """Let go of all memory."""


class Runner:
    """Owns the model and the KV cache's memory."""

    def __init__(self, model: Decoder, cache: KVCache, slots: AdapterSlots) -> None:
        """A runner of ``model`` over ``cache``; adapters are found in ``slots``."""
        self.model, self.cache, self._slots = model, cache, slots
        self.graphs = GraphPool(None)

    def free(self) -> None:
        """Let go of the weights' and the cache's memory; the runner cannot run any more."""
        self.model.release()
        self.cache.data = self.cache.data.new_empty(0)

    def build(self, plan: Schedule) -> Batch:
        """The tensors of a scheduled step."""
        return batches.build(plan, self.model, self.cache, self._slots)

    @torch.inference_mode()
    def run(self, batch: Batch) -> Tensor:
        """Copy blocks, run the model, and return float32 logits [len(logits_rows), vocab_size].

        Sequences whose rows are not finite get a NumericsError; the others are not touched by that.
        """
        if not batch.entries:
            return self.model.embedding.new_empty(0, self.model.config.vocab_size, dtype=torch.float32)
        for copy in batch.copies:
            self.cache.copy_rows(copy.source, copy.dest, copy.rows)
        hidden = self._forward(batch)
        if not math.isfinite(hidden.sum(dtype=torch.float32)):
            for rows in mark_hidden(hidden.isfinite().all(1).cpu(), batch.entries):
                self.cache.forget(batch.attention.slots[rows])
        wanted = hidden[batch.logits_rows]
        if not len(wanted):
            return wanted.float()
        logits = self.model.logits(wanted)
        if not math.isfinite(logits.sum()):
            mark_logits(logits.isfinite().all(1).cpu(), batch.wanted)
        return logits

    def _forward(self, batch: Batch) -> Tensor:
        """Hidden states after the final norm, [rows, hidden_size]."""
        ids, positions, given = batch.token_ids, batch.positions, batch.attention
        if batch.native and self.model.native is not None:
            return self.model.native.forward(ids, positions, self.cache, given, batch.adapters)
        attention = CachedAttention(self.cache, self.model.config, given)
        return (self.model.compiled or self.model).forward(ids, positions, attention, batch.adapters)

    def check(self) -> None:
        """Nothing: :meth:`run` has looked already."""


def make_runner(
    model: Decoder, cache: KVCache, slots: AdapterSlots, max_model_len: int, cuda_graphs: bool
) -> AnyRunner:
    """The runner of the backend in use."""
    if pick_backend(model.device) == "torch":
        return Runner(model, cache, slots)
    from alorakit.engine.triton_runner import TritonRunner  # imports Triton

    return TritonRunner(model, cache, slots, max_model_len, cuda_graphs)
