"""From logits to tokens (or to candidates' scores)."""

import torch
from torch import Tensor

from alorakit.engine.request import SamplingParams
from alorakit.engine.schedule import Entry
from alorakit.engine.sequence import Sequence


class Sampler:
    """Chooses each sequence's next token.

    Every sequence draws from its own generator, so a seed gives the same samples whatever else is in the batch.

    Attributes:
        structured_seconds: Time spent on structured output.
    """

    def __init__(self, eos_token_ids: frozenset[int]) -> None:
        """``eos_token_ids`` are kept out until ``min_tokens``."""
        self._eos = eos_token_ids
        self.structured_seconds = 0.0

    @torch.inference_mode()
    def sample(self, logits: Tensor, entries: list[Entry]) -> list[list[int]]:
        """Next tokens of each entry: one, or more where a draft was right; none if it is scored or not yet read.

        Args:
            logits: float32 [rows, vocab_size]; each entry's ``logits_rows``, one entry after the other.
            entries: Whose rows they are. The log-probabilities of their sequences are filled in where asked for.
        """
        chosen: list[list[int]] = []
        row = 0
        for entry in entries:
            rows = logits[row : row + len(entry.logits_rows)]
            row += len(rows)
            if entry.sequence.error is not None:
                chosen.append([])
                continue
            if num := entry.num_prompt_logprobs:
                _report_prompt(rows[:num], entry)
            last = rows[-(entry.num_rows - entry.num_tokens + 1) :]
            if entry.branches:
                entry.sequence.branch_logprobs = branch_logprobs(last, entry.sequence)
            chosen.append(self._accept(last, entry) if entry.completes and not entry.branches else [])
        return chosen

    def _accept(self, logits: Tensor, entry: Entry) -> list[int]:
        """Choose token after token; each draft token that is the chosen one makes the next row valid."""
        new: list[int] = []
        for row, guess in zip(logits, (*entry.draft, None), strict=True):
            new.append(self._choose(row, entry.sequence, new))
            if new[-1] != guess:
                break
        return new

    def _choose(self, logits: Tensor, sequence: Sequence, new: list[int]) -> int:
        params = sequence.sampling
        adjusted = self._penalised(logits, sequence, new)
        if params.temperature == 0.0:
            token = int(adjusted.argmax())
        else:
            # The largest logit first becomes 0, so that no temperature can make it overflow.
            probs = _truncated((adjusted - adjusted.max()) / params.temperature, params)
            if sequence.generator is None:
                sequence.generator = _generator(params.seed, sequence.sample_index)
            # Gumbel-max: argmax(p / e) with e ~ Exp(1) draws from p.
            noise = torch.empty(probs.shape).exponential_(generator=sequence.generator).to(probs.device)
            token = int((probs / noise).argmax())
        if params.logprobs is not None:
            sequence.token_logprobs.append(_report(logits, token, params.logprobs))
        return token

    def _penalised(self, logits: Tensor, sequence: Sequence, new: list[int]) -> Tensor:
        """Logits after penalties and bans; ``new`` are tokens chosen in this step already."""
        params = sequence.sampling
        penalty = params.repetition_penalty
        if penalty != 1.0:
            seen = torch.tensor(sorted({*sequence.tokens, *new}), device=logits.device)
            values = logits[seen]
            logits = logits.index_copy(0, seen, torch.where(values > 0, values / penalty, values * penalty))
        decoded = [*sequence.completion, *new]
        if (params.presence_penalty or params.frequency_penalty) and decoded:
            ids, counts = torch.tensor(decoded, device=logits.device).unique(return_counts=True)
            lowered = params.presence_penalty + params.frequency_penalty * counts
            logits = logits.index_add(0, ids, -lowered.to(logits.dtype))
        if len(decoded) < params.min_tokens:
            banned = torch.tensor(sorted(self._eos | params.stop_ids), device=logits.device)
            logits = logits.index_fill(0, banned, float("-inf"))
        return logits


def branch_logprobs(logits: Tensor, sequence: Sequence) -> list[float]:
    """Summed log-probability of each candidate; ``logits`` [1 + branch rows, vocab], the trunk's last row first."""
    assert sequence.branches is not None
    logprobs = logits.log_softmax(-1)
    rows, tokens, owner = [], [], []
    for index, targets in enumerate(sequence.branches.targets):
        for row, token in targets:
            rows.append(row + 1)
            tokens.append(token)
            owner.append(index)
    picked = logprobs[rows, tokens].double()
    sums = torch.zeros(len(sequence.branches.targets), dtype=torch.float64, device=picked.device)
    result: list[float] = sums.index_add(0, torch.tensor(owner, device=picked.device), picked).tolist()
    return result


def _truncated(logits: Tensor, params: SamplingParams) -> Tensor:
    """Probabilities after top-k, top-p and min-p, in that order; not renormalised (sampling does not need it)."""
    probs = logits.softmax(-1)
    if 0 < params.top_k < probs.shape[-1]:
        probs = torch.where(probs >= probs.topk(params.top_k).values[-1], probs, 0.0)
    if params.top_p < 1.0:
        ordered, index = probs.sort(descending=True)
        before = ordered.cumsum(-1) - ordered
        kept = torch.where(before < params.top_p * ordered.sum(), ordered, 0.0)
        kept[0] = ordered[0]
        probs = torch.zeros_like(probs).scatter(-1, index, kept)
    if params.min_p > 0.0:
        probs = torch.where(probs >= params.min_p * probs.max(), probs, 0.0)
    return probs


def _generator(seed: int | None, sample_index: int) -> torch.Generator:
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed((seed + sample_index * 0x9E3779B9) & 0xFFFFFFFFFFFFFFFF)
    return generator


def _report_prompt(logits: Tensor, entry: Entry) -> None:
    sequence, top = entry.sequence, entry.sequence.sampling.prompt_logprobs
    assert top is not None
    for index, row in enumerate(logits, start=entry.start + 1):
        sequence.prompt_logprobs.append(_report(row, sequence.tokens[index], top))


def _report(logits: Tensor, token: int, top: int) -> dict[int, float]:
    logprobs = logits.log_softmax(-1)
    ids = [token] + ([] if top == 0 else logprobs.topk(top).indices.tolist())
    return {i: float(logprobs[i]) for i in dict.fromkeys(ids)}
