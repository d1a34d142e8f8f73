"""Greedy answers of the model under training, for validating adapters that answer with a text."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import torch
from torch import Tensor

from alorakit.engine.branches import Branches
from alorakit.training.data import Example
from alorakit.training.loss import SuffixModel
from alorakit.training.segments import KeepingAttention, Segment, run_segments

TOKENS_PER_BATCH = 4096
EXAMPLES_PER_BATCH = 32


@dataclass
class _Growing:
    """A row and its answer so far.

    Attributes:
        buffer: Keys and values, [layers, 2, kv_heads, row and longest answer, head_dim].
        length: Tokens whose keys and values are in it.
        entering: Tokens that enter the model next.
        answer: Tokens decoded.
    """

    buffer: Tensor
    length: int
    entering: tuple[int, ...]
    answer: list[int] = field(default_factory=list)

    def segment(self) -> Segment:
        """The tokens that enter, over what is kept."""
        return Segment(self.buffer[:, :, :, : self.length], self.entering, Branches.of([]))

    def room(self) -> Tensor:
        """The part of the buffer that the pass reads and fills."""
        return self.buffer[:, :, :, : self.length + len(self.entering)]

    def take(self, token: int) -> None:
        """The pass is over and chose ``token``."""
        self.length += len(self.entering)
        self.entering = (token,)
        self.answer.append(token)

    @property
    def is_full(self) -> bool:
        """Whether the next token has no place in the buffer."""
        return self.length + len(self.entering) >= self.buffer.shape[3]


@torch.no_grad()
def generate(
    model: SuffixModel,
    examples: Sequence[Example],
    max_tokens: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[tuple[int, ...]]:
    """Answer rows with the adapter as it is, dropout off; a row's context enters only if its KV is not kept.

    Args:
        model: Base model and adapter; its ``lora.training`` is off on return.
        examples: Rows; their labels are not looked at.
        max_tokens: Most tokens of an answer, at least 1; less where the model's context ends before.
        progress: Called with the number of rows done and of all rows.

    Returns:
        Ids of each answer, without the end-of-sequence token (any of the tokenizer's and the model's) that ended it.
    """
    model.lora.training = False
    answers: list[tuple[int, ...]] = []
    for batch in _batches(examples, max_tokens):
        answers += _answers(model, batch, max_tokens)
        if progress:
            progress(len(answers), len(examples))
    return answers


def _answers(model: SuffixModel, batch: Sequence[Example], max_tokens: int) -> list[tuple[int, ...]]:
    decoder = model.decoder
    ends = {model.eos_id, *decoder.config.eos_token_ids}
    kept = model.prefixes.get([model.prefix(example) for example in batch])
    rows = [_begin(model, example, kv, max_tokens) for example, kv in zip(batch, kept, strict=True)]
    running = rows
    while running:
        segments = [row.segment() for row in running]
        attention = KeepingAttention(decoder.config, segments, [row.room() for row in running])
        hidden = run_segments(decoder, segments, attention, model.lora)
        last = [end - 1 for end in accumulate(segment.num_rows for segment in segments)]
        tokens = decoder.logits(hidden[last]).argmax(-1).tolist()
        for row, token in zip(running, tokens, strict=True):
            row.take(token)
        running = [row for row, token in zip(running, tokens, strict=True) if token not in ends and not row.is_full]
    return [tuple(row.answer[:-1] if row.answer[-1] in ends else row.answer) for row in rows]


def _begin(model: SuffixModel, example: Example, kv: Tensor, max_tokens: int) -> _Growing:
    trunk = model.trunk(example)
    longest = model.decoder.rotary.tables[0].shape[0]
    # The last token decoded never enters, but the buffer has a place for it: it says where to stop.
    length = min(kv.shape[3] + len(trunk) + max_tokens, longest + 1)
    buffer = kv.new_empty((*kv.shape[:3], length, kv.shape[4]))
    buffer[:, :, :, : kv.shape[3]] = kv
    return _Growing(buffer, kv.shape[3], trunk)


def _batches(examples: Sequence[Example], max_tokens: int) -> Iterator[list[Example]]:
    """Consecutive rows whose keys and values, answers included, are about ``TOKENS_PER_BATCH``; at least one."""
    batch: list[Example] = []
    num_tokens = 0
    for example in examples:
        size = len(example.prefix_ids) + len(example.invocation_ids) + max_tokens
        if batch and (num_tokens + size > TOKENS_PER_BATCH or len(batch) == EXAMPLES_PER_BATCH):
            yield batch
            batch, num_tokens = [], 0
        batch.append(example)
        num_tokens += size
    if batch:
        yield batch
