"""From examples to the log-probabilities of label and EOS tokens: what training and evaluation both read."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from alorakit.engine.branches import Branches
from alorakit.engine.model import Decoder
from alorakit.kernels import ops
from alorakit.training.data import Example
from alorakit.training.lora import LoraWeights
from alorakit.training.prefix_cache import Prefix, PrefixCache
from alorakit.training.segments import Segment, SegmentAttention, run_segments

Candidate = tuple[int, ...]


@dataclass
class SuffixModel:
    """Base model, adapter and kept prefixes: only rows from the activation point on enter.

    Attributes:
        decoder: The frozen base model, not packed.
        lora: The adapter under training.
        prefixes: Keys and values of what lies before the activation point.
        activated: True for an aLoRA (activation at the invocation), False for a LoRA (activation at 0).
        eos_id: Token that closes a label.
        checkpointing: Whether activations are computed again in the backward pass instead of being kept.
    """

    decoder: Decoder
    lora: LoraWeights
    prefixes: PrefixCache
    activated: bool
    eos_id: int
    checkpointing: bool = False

    def prefix(self, example: Example) -> Prefix:
        """Tokens before the activation point."""
        return example.prefix_ids if self.activated else ()

    def trunk(self, example: Example) -> tuple[int, ...]:
        """Tokens from the activation point through the invocation."""
        return example.invocation_ids if self.activated else example.prefix_ids + example.invocation_ids

    def answer(self, example: Example) -> Candidate:
        """Tokens to learn: the label and EOS."""
        return (*example.label_ids, self.eos_id)

    def log_probabilities(self, batch: Sequence[Example], candidates: Sequence[Sequence[Candidate]]) -> Tensor:
        """Log-probability of every token of every candidate, in one forward pass.

        Args:
            batch: Rows to run.
            candidates: For each row, the continuations of its invocation.

        Returns:
            float32 [tokens]: row by row, candidate by candidate, token by token; differentiable.
        """
        kept = self.prefixes.get([self.prefix(example) for example in batch])
        segments = [
            Segment(kv, self.trunk(example), Branches.of(options))
            for kv, example, options in zip(kept, batch, candidates, strict=True)
        ]
        attention = SegmentAttention(self.decoder.config, segments)
        hidden = run_segments(
            self.decoder, segments, attention, self.lora, self.checkpointing and torch.is_grad_enabled()
        )
        return _target_log_probabilities(self.decoder, hidden, segments)


def _target_log_probabilities(decoder: Decoder, hidden: Tensor, segments: Sequence[Segment]) -> Tensor:
    """Log-probabilities of the branches' targets; only the rows they are read from go through ``lm_head``."""
    pairs = []
    first = 0
    for segment in segments:
        branch_rows = first + len(segment.trunk)  # target row -1 is the trunk's last
        pairs += [(branch_rows + row, token) for target in segment.branches.targets for row, token in target]
        first += segment.num_rows
    used = {row: index for index, row in enumerate(dict.fromkeys(row for row, _ in pairs))}
    rows = torch.tensor(list(used), device=hidden.device)
    where = torch.tensor([used[row] for row, _ in pairs], device=hidden.device)
    tokens = torch.tensor([token for _, token in pairs], device=hidden.device)
    divisor = decoder.config.logits_divisor
    return ops.linear_cross_entropy(hidden, decoder.lm_head.weight, rows, where, tokens, divisor)
