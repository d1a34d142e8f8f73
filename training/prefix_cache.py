"""Keys and values of the tokens before the activation point: computed once, reused in every epoch.

No trainable weight touches them, so they need no autograd (``no_grad``; autograd refuses tensors made under
``inference_mode``) and never change.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from alorakit.engine.branches import Branches
from alorakit.engine.model import Decoder
from alorakit.training.segments import KeepingAttention, Segment, keep_segments

TOKENS_PER_PASS = 1024
Prefix = tuple[int, ...]


class PrefixCache:
    """Owner of the kept prefixes.

    Attributes:
        num_kept: Distinct prefixes in memory.
        num_recomputed: Distinct prefixes that did not fit, computed anew for each batch.
        tokens_kept: Tokens of the kept ones.
    """

    def __init__(self, decoder: Decoder, budget: int) -> None:
        """Keep at most ``budget`` bytes, beside the prefixes of the batch at hand."""
        self._decoder = decoder
        self._kept: dict[Prefix, Tensor] = {}
        self._budget = budget
        # What all prefixes begin with (the chat template's opening) enters the model once.
        self._header: Prefix = ()
        self._header_kv = self._buffer(0)
        self.num_kept = self.num_recomputed = self.tokens_kept = 0

    def fill(self, prefixes: Iterable[Prefix], progress: Callable[[int, int], None] | None = None) -> None:
        """Compute and keep each distinct prefix, as many as the budget allows.

        Args:
            prefixes: Those of all rows, in any order, repeated or not.
            progress: Called with the number of prefixes done and the number to be done.
        """
        wanted = [prefix for prefix in dict.fromkeys(prefixes) if prefix]
        if len(wanted) > 1 and (header := _common_start(min(wanted), max(wanted))):
            self._header_kv = self._compute([header])[0]
            self._header = header
        chosen = []
        for prefix in wanted:
            size = self._header_kv.element_size() * self._buffer_numel(len(prefix))
            if size <= self._budget:
                self._budget -= size
                chosen.append(prefix)
        self.num_kept, self.tokens_kept = len(chosen), sum(len(prefix) for prefix in chosen)
        self.num_recomputed = len(wanted) - len(chosen)
        for group in _groups(chosen):
            self._kept.update(zip(group, self._compute(group), strict=True))
            if progress:
                progress(len(self._kept), len(chosen))

    def get(self, prefixes: Sequence[Prefix]) -> list[Tensor]:
        """KV of each prefix, [layers, 2, kv_heads, len(prefix), head_dim] in the compute dtype, without autograd."""
        missing = [p for p in dict.fromkeys(prefixes) if p and p not in self._kept]
        fresh = {p: kv for group in _groups(missing) for p, kv in zip(group, self._compute(group), strict=True)}
        empty = self._buffer(0)
        return [fresh[p] if p in fresh else self._kept.get(p, empty) for p in prefixes]

    @torch.no_grad()
    def _compute(self, prefixes: Sequence[Prefix]) -> list[Tensor]:
        kept = len(self._header)
        buffers, segments = [], []
        for prefix in prefixes:
            buffer = self._buffer(len(prefix))
            shared = kept if prefix[:kept] == self._header and len(prefix) > kept else 0
            buffer[:, :, :, :shared] = self._header_kv[:, :, :, :shared]
            buffers.append(buffer)
            segments.append(Segment(self._header_kv[:, :, :, :shared], prefix[shared:], Branches.of([])))
        attention = KeepingAttention(self._decoder.config, segments, buffers)
        keep_segments(self._decoder, segments, attention)
        return buffers

    def _buffer(self, length: int) -> Tensor:
        cfg = self._decoder.config
        shape = (cfg.num_layers, 2, cfg.num_kv_heads, length, cfg.head_dim)
        return torch.empty(shape, dtype=self._decoder.dtype, device=self._decoder.device)

    def _buffer_numel(self, length: int) -> int:
        cfg = self._decoder.config
        return 2 * cfg.num_layers * cfg.num_kv_heads * length * cfg.head_dim


def _groups(prefixes: Sequence[Prefix]) -> Iterator[list[Prefix]]:
    """Consecutive prefixes of about ``TOKENS_PER_PASS`` tokens together, at least one."""
    group: list[Prefix] = []
    for prefix in prefixes:
        if group and sum(map(len, group)) + len(prefix) > TOKENS_PER_PASS:
            yield group
            group = []
        group.append(prefix)
    if group:
        yield group


def _common_start(a: Prefix, b: Prefix) -> Prefix:
    """Of the least and the greatest of some prefixes: what all of them begin with."""
    length = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    return a[:length]
