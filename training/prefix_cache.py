"""Keys and values of the tokens before the activation point: computed once, reused in every epoch.

No trainable weight touches them, so they need no autograd (``no_grad``; autograd refuses tensors made under
``inference_mode``) and never change. They are kept on the device as far as its budget goes, then in host memory; what
fits neither is computed anew for each pass, still without autograd.
"""

import time
from collections import Counter
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
        budgets: Bytes that may be kept, on the device and in host memory.
        num_kept: Distinct prefixes in memory.
        num_host: Those of them in host memory, beside a device.
        num_recomputed: Distinct prefixes that did not fit, computed anew for each pass.
        tokens_kept: Tokens of the kept ones.
        bytes_kept: What they take.
        seconds_recomputing: Time spent on prefixes that are not kept.
    """

    def __init__(self, decoder: Decoder, budget: int, host_budget: int = 0) -> None:
        """Keep at most ``budget`` bytes on the device and ``host_budget`` in host memory, beside those of the pass."""
        self._decoder = decoder
        self._kept: dict[Prefix, Tensor] = {}
        self.budgets = (budget, host_budget)
        # What all prefixes begin with (the chat template's opening) enters the model once.
        self._header: Prefix = ()
        self._header_kv = self._buffer(0)
        self.num_kept = self.num_host = self.num_recomputed = self.tokens_kept = self.bytes_kept = 0
        self.seconds_recomputing = 0.0

    def fill(self, prefixes: Iterable[Prefix], progress: Callable[[int, int], None] | None = None) -> None:
        """Compute and keep each distinct prefix, as many as the budgets allow, those of most rows first.

        Args:
            prefixes: That of every row, in any order, repeated or not.
            progress: Called with the number of prefixes done and the number to be done.
        """
        per_token = self._buffer(1).nbytes
        wanted = by_use(prefixes)
        if len(wanted) > 1 and (header := common_start(min(wanted), max(wanted))):
            self._header_kv = self._compute([header])[0]
            self._header = header
        on_device = chosen(wanted, per_token, self.budgets[0])
        left = set(wanted) - set(on_device)
        on_host = chosen([prefix for prefix in wanted if prefix in left], per_token, self.budgets[1])
        kept = [*on_device, *on_host]
        self.num_kept, self.num_host, self.num_recomputed = len(kept), len(on_host), len(wanted) - len(kept)
        self.tokens_kept = sum(map(len, kept))
        self.bytes_kept = self.tokens_kept * per_token
        for part, place in ((on_device, lambda kv: kv), (on_host, _to_host)):
            for group in self._groups(part):
                self._kept.update(zip(group, map(place, self._compute(group)), strict=True))
                if progress:
                    progress(len(self._kept), len(kept))

    def summary(self) -> str:
        """What is kept and what is not, for people."""
        where = f", {self.num_host} of them in host memory" if self.num_host else ""
        again = f"; {self.num_recomputed} computed anew in every epoch" if self.num_recomputed else ""
        return f"{self.num_kept} prefixes kept in {self.bytes_kept / 2**20:.3g} MiB{where}{again}"

    def num_missing(self, prefix: Prefix) -> int:
        """Tokens that :meth:`get` would have to compute."""
        return 0 if prefix in self._kept else len(prefix)

    def get(self, prefixes: Sequence[Prefix]) -> list[Tensor]:
        """KV of each prefix, [layers, 2, kv_heads, len(prefix), head_dim] in the compute dtype, without autograd."""
        began = time.perf_counter()
        missing = [p for p in dict.fromkeys(prefixes) if p and p not in self._kept]
        fresh = {p: kv for group in self._groups(missing) for p, kv in zip(group, self._compute(group), strict=True)}
        self.seconds_recomputing += time.perf_counter() - began if missing else 0.0
        empty, device = self._buffer(0), self._decoder.device
        found = [fresh[p] if p in fresh else self._kept.get(p, empty) for p in prefixes]
        return [kv.to(device, non_blocking=True) for kv in found]

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

    def _groups(self, prefixes: Sequence[Prefix]) -> Iterator[list[Prefix]]:
        """Consecutive prefixes of about ``TOKENS_PER_PASS`` tokens together, at least one."""
        limit = TOKENS_PER_PASS if self._decoder.device.type == "cpu" else 8 * TOKENS_PER_PASS
        group: list[Prefix] = []
        for prefix in prefixes:
            if group and sum(map(len, group)) + len(prefix) > limit:
                yield group
                group = []
            group.append(prefix)
        if group:
            yield group

    def _buffer(self, length: int) -> Tensor:
        cfg = self._decoder.config
        shape = (cfg.num_layers, 2, cfg.num_kv_heads, length, cfg.head_dim)
        return torch.empty(shape, dtype=self._decoder.dtype, device=self._decoder.device)


def by_use(prefixes: Iterable[Prefix]) -> list[Prefix]:
    """Each distinct prefix that is not empty; those of most rows first, else in the order they came."""
    return [prefix for prefix, _ in Counter(filter(None, prefixes)).most_common()]


def chosen(prefixes: Iterable[Prefix], bytes_per_token: int, budget: int) -> list[Prefix]:
    """Those that fit into ``budget`` bytes, in order, each that still does."""
    fitting = []
    for prefix in prefixes:
        size = len(prefix) * bytes_per_token
        if size <= budget:
            budget -= size
            fitting.append(prefix)
    return fitting


def _to_host(kv: Tensor) -> Tensor:
    # Page-locked memory, so that the way back does not wait.
    return kv.to("cpu").pin_memory() if kv.is_cuda else kv.to("cpu")


def common_start(a: Prefix, b: Prefix) -> Prefix:
    """Of the least and the greatest of some prefixes: what all of them begin with."""
    length = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    return a[:length]
