"""Runs a batch through the model."""

import torch
from torch import Tensor

from alorakit.engine.attention import KVCache, PagedAttention
from alorakit.engine.batch import Batch
from alorakit.engine.model import Decoder


class Runner:
    """Owns the model and the KV cache's memory.

    Attributes:
        tokens_computed: Rows that entered the model so far.
    """

    def __init__(self, model: Decoder, cache: KVCache) -> None:
        """A runner of ``model`` over ``cache``."""
        self.model, self.cache = model, cache
        self.tokens_computed = 0

    @torch.inference_mode()
    def run(self, batch: Batch) -> Tensor:
        """Copy blocks, run the model, and return float32 logits [len(logits_rows), vocab_size]."""
        for copy in batch.copies:
            self.cache.copy_rows(copy.source, copy.dest, copy.rows)
        attention = PagedAttention(self.cache, self.model.config, batch.writes, batch.spans)
        hidden = self.model.forward(batch.token_ids, batch.positions, attention, batch.adapters)
        self.tokens_computed += batch.token_ids.shape[0]
        wanted = hidden[batch.logits_rows]
        return self.model.logits(wanted) if len(wanted) else wanted.float()
