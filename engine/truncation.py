"""Top-k, top-p and min-p for a batch, as one threshold per row; nothing is sorted whole unless it must be."""

from dataclasses import dataclass

import torch
from torch import Tensor

from alorakit.engine.request import SamplingParams

# As many of the largest logits are looked at first; a row is sorted whole if they do not hold its top-p mass.
WIDTH = 1024


@dataclass(frozen=True)
class Truncation:
    """Settings of each row of a batch, as columns.

    Attributes:
        top_k: int64 [rows]; the vocabulary's size where all tokens are kept.
        top_p: float64 [rows].
        log_min_p: float32 [rows, 1]; -inf where all tokens are kept.
        cut: Rows that top-k or top-p applies to.
        width: How many of their largest logits to look at first.
    """

    top_k: Tensor
    top_p: Tensor
    log_min_p: Tensor
    cut: list[int]
    width: int

    @classmethod
    def of(cls, params: list[SamplingParams], vocab_size: int, device: torch.device) -> "Truncation":
        """The settings of one batch."""
        top_k = [min(p.top_k, vocab_size) or vocab_size for p in params]
        widest = WIDTH if any(p.top_p < 1.0 for p in params) else max((k for k in top_k if k < vocab_size), default=1)
        return cls(
            top_k=torch.tensor(top_k, device=device),
            top_p=torch.tensor([p.top_p for p in params], dtype=torch.float64, device=device),
            log_min_p=torch.tensor([[p.min_p] for p in params], device=device).log(),
            cut=[row for row, p in enumerate(params) if top_k[row] < vocab_size or p.top_p < 1.0],
            width=min(widest, WIDTH, vocab_size),
        )

    def apply(self, logits: Tensor) -> None:
        """Set the logits of tokens that are not kept to -inf.

        In transformers' order: top-k, then top-p of what that leaves, then min-p. Tokens as likely as the least one
        kept are kept too, so that the result does not depend on how ties are sorted.

        Args:
            logits: float32 [rows, vocab], already divided by the temperature, and each row's largest 0; modified in
                place.
        """
        floor = self.log_min_p
        if self.cut:
            rows = torch.tensor(self.cut, device=logits.device)
            part = logits if len(rows) == len(logits) else logits[rows]
            floors = _floors(part, self.top_k[rows], self.top_p[rows], self.width)
            floor = floor.index_copy(0, rows, torch.maximum(floor[rows], floors))
        logits.masked_fill_(logits < floor, float("-inf"))


def _floors(logits: Tensor, top_k: Tensor, top_p: Tensor, width: int) -> Tensor:
    """The least logit that top-k and top-p keep: float32 [rows, 1]."""
    floors, reached = _cut(logits.topk(width).values, top_k, top_p, logits)
    if width < logits.shape[-1] and len(rest := (~reached).nonzero()[:, 0]):
        ordered = logits[rest].sort(descending=True).values
        floors[rest] = _cut(ordered, top_k[rest], top_p[rest], ordered)[0]
    return floors


def _cut(ordered: Tensor, top_k: Tensor, top_p: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Floors of rows whose largest logits are given, and whether these were enough to tell.

    Args:
        ordered: float32 [rows, width], falling.
        top_k: int64 [rows].
        top_p: float64 [rows].
        logits: float32 [rows, vocab], of which ``ordered`` are the largest.

    Returns:
        float32 [rows, 1] and bool [rows].
    """
    width = ordered.shape[-1]
    within = torch.arange(width, device=ordered.device) < top_k[:, None]
    weights = ordered.exp().double().masked_fill_(~within, 0.0)
    sums = weights.cumsum(-1)
    total = sums[:, -1]
    if width < logits.shape[-1]:
        total = torch.where(top_k > width, logits.exp().sum(-1).double(), total)
    goal = torch.where(top_p < 1.0, top_p * total, float("inf"))
    # A token is kept if those before it do not reach the goal yet; the first always is.
    kept = ((sums - weights < goal[:, None]) & within).sum(-1, keepdim=True).clamp_(min=1)
    return ordered.gather(-1, kept - 1), (top_k <= width) | (sums[:, -1] >= goal)
