"""From logits to tokens (or to candidates' scores), for the whole batch at once."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from alorakit.engine import logprobs
from alorakit.engine.draw import inverse_cdf, uniforms
from alorakit.engine.errors import AlorakitError, NumericsError, RequestError
from alorakit.engine.logprobs import Wanted
from alorakit.engine.penalties import TokenCounts, ban, penalise
from alorakit.engine.schedule import Entry
from alorakit.engine.sequence import Sequence
from alorakit.engine.structured import forbidden_tokens
from alorakit.engine.truncation import Truncation

if TYPE_CHECKING:
    from llguidance import LLExecutor

# In place of a token: every token is forbidden; the logits are not finite.
NO_TOKEN = -1
NOT_FINITE = -2


@dataclass(frozen=True)
class Pick:
    """A row of logits to choose a token from.

    Attributes:
        row: Row of the logits.
        sequence: Whose token it is.
        ahead: Draft tokens between the sequence's tokens and this one, taken to be right; if they turn out not to be,
            the choice is dropped.
    """

    row: int
    sequence: Sequence
    ahead: tuple[int, ...]

    @property
    def index(self) -> int:
        """Index of the token in its completion."""
        return len(self.sequence.tokens) - self.sequence.num_prompt + len(self.ahead)

    @property
    def is_adjusted(self) -> bool:
        """Whether something changes the model's logits before a token is chosen."""
        params = self.sequence.sampling
        return self.index < params.min_tokens or params.has_penalties or self.sequence.matcher is not None


class Sampler:
    """Chooses each sequence's next token.

    A draw depends on the request's seed, the sample's index and the token's index alone, so a seed gives the same
    samples whatever else is in the batch, and whether a sequence was preempted or drafted.

    Attributes:
        structured_seconds: Time spent on structured output so far, in seconds.
    """

    def __init__(self, eos_token_ids: frozenset[int]) -> None:
        """``eos_token_ids`` are kept out until ``min_tokens``."""
        self._eos = eos_token_ids
        self.structured_seconds = 0.0

    @torch.inference_mode()
    def sample(self, logits: Tensor, entries: list[Entry]) -> list[list[int]]:
        """Next tokens of each entry: one, or more where a draft was right; none if it is scored or not yet read.

        A sequence for which no token can be chosen gets its ``error`` and no token; the others are not touched by that.

        Args:
            logits: float32 [rows, vocab_size]; each entry's ``logits_rows``, one entry after the other.
            entries: Whose rows they are. The log-probabilities of their sequences are filled in where asked for.
        """
        if all(map(_is_plain, entries)):  # what most steps are, and each entry has one row
            return [[token] for token in logits.argmax(-1).tolist()]
        groups: list[list[Pick]] = []
        wanted: list[Wanted] = []
        scored: list[tuple[int, Sequence]] = []
        row = 0
        for entry in entries:
            first, row = row, row + len(entry.logits_rows)
            last = row - 1 - (entry.num_rows - entry.num_tokens)  # of the sequence's tokens, if it is among the rows
            groups.append([])
            if entry.sequence.error is not None:
                continue
            wanted += _prompt_logprobs(entry, first)
            if entry.branches:
                scored.append((last, entry.sequence))
            elif entry.completes:
                groups[-1] = [Pick(last + i, entry.sequence, entry.draft[:i]) for i in range(len(entry.draft) + 1)]
        tokens = iter(self._choose(logits, [pick for group in groups for pick in group]))
        chosen = [_accept(group, entry.draft, tokens, wanted) for group, entry in zip(groups, entries, strict=True)]
        logprobs.report(logits, wanted)
        sums = logprobs.score(logits, [(last, s.branches) for last, s in scored if s.branches is not None])
        for (_, sequence), values in zip(scored, sums, strict=True):
            sequence.branch_logprobs = values
        return chosen

    def _choose(self, logits: Tensor, picks: list[Pick]) -> list[int]:
        """A token for each pick, or NO_TOKEN or NOT_FINITE; one transfer to the host for all of them."""
        drawn = [i for i, pick in enumerate(picks) if pick.sequence.sampling.temperature > 0.0]
        greedy = [i for i, pick in enumerate(picks) if pick.sequence.sampling.temperature == 0.0]
        plain = [i for i in greedy if not picks[i].is_adjusted]
        adjusted = [i for i in greedy if picks[i].is_adjusted]
        choices = ((_argmax, plain), (self._checked_argmax, adjusted), (self._draw, drawn))
        parts = [choose(logits, [picks[i] for i in part]) for choose, part in choices if part]
        found = (parts[0] if len(parts) == 1 else torch.cat(parts)).tolist() if parts else []
        tokens = dict(zip([*plain, *adjusted, *drawn], found, strict=True))
        return [tokens[i] for i in range(len(picks))]

    def _checked_argmax(self, logits: Tensor, picks: list[Pick]) -> Tensor:
        """The most likely token after adjustments: int64 [picks]."""
        best, tokens = self._adjusted(logits, picks).max(-1)
        return _checked(tokens, best)

    def _draw(self, logits: Tensor, picks: list[Pick]) -> Tensor:
        """Tokens drawn at random: int64 [picks]."""
        work = self._adjusted(logits, picks)
        if work.device.type == "mps":  # which has no float64
            work = work.cpu()
        params = [pick.sequence.sampling for pick in picks]
        best = work.amax(-1, keepdim=True)
        # The largest logit first becomes 0, so that no temperature can make it overflow.
        work.sub_(best).div_(torch.tensor([[p.temperature] for p in params], device=work.device))
        Truncation.of(params, work.shape[-1], work.device).apply(work)
        sequences = [pick.sequence for pick in picks]
        uniform = uniforms(
            [s.seed for s in sequences], [s.sample_index for s in sequences], [pick.index for pick in picks]
        )
        tokens = inverse_cdf(work.exp_(), torch.from_numpy(uniform).to(work.device))
        return _checked(tokens, best[:, 0]).to(logits.device)

    def _adjusted(self, logits: Tensor, picks: list[Pick]) -> Tensor:
        """The picks' rows after masks, penalties and bans: float32 [picks, vocab], a copy."""
        work = logits[torch.tensor([pick.row for pick in picks], device=logits.device)]
        self._mask(work, picks)
        penalised = [i for i, pick in enumerate(picks) if pick.sequence.sampling.has_penalties]
        if penalised:
            counted = [_counts(picks[i].sequence).with_ahead(picks[i].ahead) for i in penalised]
            penalise(work, penalised, counted, [picks[i].sequence.sampling for i in penalised])
        early = [i for i, pick in enumerate(picks) if pick.index < pick.sequence.sampling.min_tokens]
        if early:
            ban(work, early, [sorted(self._eos | picks[i].sequence.sampling.stop_ids) for i in early])
        return work

    def _mask(self, work: Tensor, picks: list[Pick]) -> None:
        """Forbid what the grammars do not allow next; ``work`` is modified in place."""
        structured = [(row, p.sequence, p.sequence.matcher) for row, p in enumerate(picks) if p.sequence.matcher]
        if not structured:
            return
        start = time.perf_counter()
        able = [item for item in structured if _guarded(item[1], item[2].advance, item[1].completion)]
        if able:
            forbidden = forbidden_tokens(self._executor, [matcher for _, _, matcher in able], work.device)
            rows = torch.tensor([row for row, _, _ in able], device=work.device)
            work[rows] = work[rows].masked_fill_(forbidden, float("-inf"))
        for _, sequence, matcher in able:
            _guarded(sequence, matcher.check)
        self.structured_seconds += time.perf_counter() - start

    @cached_property
    def _executor(self) -> "LLExecutor":
        from llguidance import LLExecutor  # only structured output needs it

        return LLExecutor()


def _is_plain(entry: Entry) -> bool:
    """Whether the most likely token is all that an entry needs."""
    sequence = entry.sequence
    extras = entry.branches or entry.draft or sequence.matcher or sequence.error
    return entry.completes and sequence.sampling.is_plain and not extras


def _argmax(logits: Tensor, picks: list[Pick]) -> Tensor:
    """The most likely token of rows that nothing changes: int64 [picks]."""
    rows = [pick.row for pick in picks]
    part = logits if rows == list(range(len(logits))) else logits[torch.tensor(rows, device=logits.device)]
    return part.argmax(-1)


def _checked(tokens: Tensor, best: Tensor) -> Tensor:
    """The tokens, but NO_TOKEN or NOT_FINITE where the row's largest logit is no number."""
    return torch.where(best.isfinite(), tokens, torch.where(best.isneginf(), NO_TOKEN, NOT_FINITE))


def _prompt_logprobs(entry: Entry, first: int) -> list[Wanted]:
    """What to report of an entry's prompt, whose rows begin at ``first``."""
    sequence, top = entry.sequence, entry.sequence.sampling.prompt_logprobs
    if entry.num_prompt_logprobs:  # those of a preempted run, or of an interrupted step, go
        del sequence.prompt_logprobs[entry.start :]
    return [
        Wanted(first + i, sequence.tokens[entry.start + 1 + i], top or 0, sequence.prompt_logprobs)
        for i in range(entry.num_prompt_logprobs)
    ]


def _accept(group: list[Pick], draft: tuple[int, ...], tokens: Iterator[int], wanted: list[Wanted]) -> list[int]:
    """One entry's tokens: each draft token that is the chosen one makes the next choice valid.

    Args:
        group: The entry's picks.
        draft: The entry's draft.
        tokens: The choices, from the group's on; moved past them.
        wanted: Gets what to report of the accepted tokens.
    """
    if group:  # a step that was interrupted may have left some
        del group[0].sequence.token_logprobs[group[0].index :]
    accepted: list[int] = []
    # A list, so that the group's choices are all taken, accepted or not.
    for pick, token, guess in list(zip(group, tokens, (*draft, None), strict=False)):
        sequence, top = pick.sequence, pick.sequence.sampling.logprobs
        if token < 0 and sequence.error is None:
            sequence.error = _no_token_error(pick, token)
        if sequence.error is not None:
            return []
        accepted.append(token)
        if top is not None:
            wanted.append(Wanted(pick.row, token, top, sequence.token_logprobs))
        if token != guess:
            break
    return accepted


def _counts(sequence: Sequence) -> TokenCounts:
    """The sequence's counts, brought up to date."""
    if sequence.counts is None:
        sequence.counts = TokenCounts(sequence.tokens, sequence.num_prompt, sequence.sampling)
    sequence.counts.update(sequence.tokens)
    return sequence.counts


def _guarded(sequence: Sequence, function: Callable[..., None], *args: object) -> bool:
    """Call something that concerns one sequence alone; False, and its error set, if that fails."""
    try:
        function(*args)
    except AlorakitError as exc:
        sequence.error = exc
    except Exception as exc:
        sequence.error = RequestError(f"structured output failed: {exc}; change the grammar, or leave it out")
        sequence.error.__cause__ = exc
    return sequence.error is None


def _no_token_error(pick: Pick, token: int) -> AlorakitError:
    if token == NOT_FINITE:
        return NumericsError(
            f"the logits of completion token {pick.index} are not finite; check the model's weights, or use "
            "dtype='float32'"
        )
    what = "min_tokens" if pick.sequence.matcher is None else "structured"
    return RequestError(f"{what} forbids every token after {pick.index} tokens; change it")
