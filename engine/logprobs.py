"""Log-probabilities: of chosen and top tokens, and of the candidates that are scored."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from alorakit.engine.branches import Branches

# Rows that are normalised at a time: bounds the memory that a long prompt's log-probabilities take.
MAX_ROWS = 256


@dataclass(frozen=True)
class Wanted:
    """Log-probabilities that are asked for.

    Attributes:
        row: Row of the logits.
        token: The token that was chosen, or that stands there in the prompt.
        top: How many of the most likely tokens to add.
        into: The list that gets them, as a dict of token id to log-probability.
    """

    row: int
    token: int
    top: int
    into: list[dict[int, float]]


def report(logits: Tensor, wanted: list[Wanted]) -> None:
    """Append what is wanted to its lists, in order.

    Args:
        logits: float32 [rows, vocab], the model's own.
        wanted: What for; a row may be wanted or not.
    """
    for start in range(0, len(wanted), MAX_ROWS):
        part = wanted[start : start + MAX_ROWS]
        chosen = torch.tensor([[w.token] for w in part], device=logits.device)
        logprobs = logits[torch.tensor([w.row for w in part], device=logits.device)].log_softmax(-1)
        width = min(max(w.top for w in part), logits.shape[-1])
        ids = torch.cat([chosen, logprobs.topk(width).indices], dim=-1) if width else chosen
        values = logprobs.gather(-1, ids).tolist()
        for w, row_ids, row_values in zip(part, ids.tolist(), values, strict=True):
            w.into.append(dict(zip(row_ids[: w.top + 1], row_values[: w.top + 1], strict=True)))


def score(logits: Tensor, scored: list[tuple[int, Branches]]) -> list[list[float]]:
    """Summed log-probability of each candidate.

    Args:
        logits: float32 [rows, vocab], the model's own.
        scored: For each scored sequence, the row of its trunk's last token (its branches' rows follow) and its
            branches.
    """
    picked = []
    for first, branches in scored:
        pairs = [pair for targets in branches.targets for pair in targets]
        logprobs = logits[first : first + 1 + branches.num_rows].log_softmax(-1)
        picked.append(logprobs[[row + 1 for row, _ in pairs], [token for _, token in pairs]])
    values = iter(torch.cat(picked).tolist() if picked else [])
    return [[math.fsum(next(values) for _ in targets) for targets in branches.targets] for _, branches in scored]
