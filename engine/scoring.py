"""Scoring candidates: how they are split over passes, and how the passes' numbers come together."""

import math
import time
from collections.abc import Sequence as Seq
from dataclasses import dataclass

from alorakit.engine.admission import Admission
from alorakit.engine.branches import Branches
from alorakit.engine.errors import RequestError, shown
from alorakit.engine.request import CandidateScore, ScoreResult, Timing, Usage
from alorakit.engine.sequence import Sequence


@dataclass(frozen=True)
class CandidateGroup:
    """Candidates that are scored in one pass."""

    texts: tuple[str, ...]
    token_ids: tuple[tuple[int, ...], ...]

    @property
    def branches(self) -> Branches:
        """Their rows after the prompt."""
        return Branches.of(self.token_ids)


def plan_candidates(admission: Admission, candidates: Seq[str], end: bool, budget: int) -> list[CandidateGroup]:
    """Tokenize candidates and group them so that each group's rows fit one pass.

    Args:
        admission: Knows the tokenizer and the vocabulary.
        candidates: Texts.
        end: Close each by end-of-sequence.
        budget: Most rows in one pass, the prompt's last token included.

    Raises:
        RequestError: No candidates, not texts, an empty one, one that is too long, or no end-of-sequence token.
    """
    if not isinstance(candidates, list | tuple) or not candidates:
        raise RequestError(f"candidates={shown(candidates)} must be a non-empty list of texts")
    groups: list[CandidateGroup] = []
    texts: list[str] = []
    ids: list[tuple[int, ...]] = []
    rows = 1
    for text in candidates:
        tokens = admission.candidate(text, end)
        if len(tokens) > budget:
            raise RequestError(f"candidate {text[:40]!r}… has {len(tokens)} tokens, but one pass takes {budget}")
        # Half a pass for several together, so that they fit beside sequences that decode.
        if texts and rows + len(tokens) - 1 > -(-budget // 2):
            groups.append(CandidateGroup(tuple(texts), tuple(ids)))
            texts, ids, rows = [], [], 1
        texts.append(text)
        ids.append(tuple(tokens))
        rows += len(tokens) - 1
    groups.append(CandidateGroup(tuple(texts), tuple(ids)))
    return groups


def combine(groups: list[CandidateGroup], sequences: list[Sequence], started: float) -> ScoreResult:
    """Scores of all groups; probabilities are the softmax of the candidates' log-probabilities / temperature.

    The temperature is the adapter's (Guo et al. 2017, arXiv 1706.04599); the base model has none.
    """
    adapter = sequences[0].active_adapter
    temperature = 1.0 if adapter is None else adapter.info.temperature
    logprobs = [value for s in sequences for value in s.branch_logprobs or []]
    texts = [text for g in groups for text in g.texts]
    ids = [list(tokens) for g in groups for tokens in g.token_ids]
    top = max(logprobs)
    weights = [math.exp((value - top) / temperature) for value in logprobs]
    total = sum(weights)
    scores = [
        CandidateScore(text, tokens, logprob, weight / total)
        for text, tokens, logprob, weight in zip(texts, ids, logprobs, weights, strict=True)
    ]
    first = sequences[0]
    usage = Usage(first.num_prompt, first.num_cached or 0, 0)
    timing = Timing(first.timing.queue_s, first.timing.ttft_s, time.perf_counter() - started)
    return ScoreResult(scores, usage, timing, first.activation)
