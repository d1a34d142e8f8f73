"""Penalties and bans: what was decoded before lowers logits, or forbids tokens."""

from array import array

import numpy as np
import torch
from torch import Tensor

from alorakit.engine.request import SamplingParams


class TokenCounts:
    """How often each token was decoded in one sequence, kept up to date token by token.

    Attributes:
        num_counted: Tokens of the sequence (prompt and completion) that are in it.
    """

    def __init__(self, tokens: list[int], num_prompt: int, params: SamplingParams) -> None:
        """Start with the prompt, whose tokens count 0 times; only the repetition penalty looks at them."""
        listed = dict.fromkeys(tokens[:num_prompt] if params.repetition_penalty != 1.0 else ())
        self._index = {token: index for index, token in enumerate(listed)}
        self._tokens, self._counts = array("q", listed), array("q", bytes(8 * len(listed)))
        self.num_counted = num_prompt

    def update(self, tokens: list[int]) -> None:
        """Count what the sequence's tokens have gained since the last call."""
        for token in tokens[self.num_counted :]:
            index = self._index.setdefault(token, len(self._index))
            if index == len(self._tokens):
                self._tokens.append(token)
                self._counts.append(0)
            self._counts[index] += 1
        self.num_counted = len(tokens)

    def with_ahead(self, ahead: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Distinct tokens and how often each was decoded (int64), if ``ahead`` (a draft's tokens) came next."""
        tokens, counts = np.array(self._tokens), np.array(self._counts)
        new = list(dict.fromkeys(token for token in ahead if token not in self._index))
        if new:
            tokens, counts = np.append(tokens, new), np.append(counts, np.zeros(len(new), np.int64))
        for token in ahead:
            counts[self._index[token] if token in self._index else len(self._index) + new.index(token)] += 1
        return tokens, counts


def penalise(
    logits: Tensor, rows: list[int], counted: list[tuple[np.ndarray, np.ndarray]], params: list[SamplingParams]
) -> None:
    """Lower the logits of tokens that occurred, in vLLM's order: repetition, then frequency and presence.

    Args:
        logits: float32 [any, vocab], modified in place.
        rows: Which of its rows.
        counted: For each of these rows, distinct tokens and how often each was decoded.
        params: For each of these rows, the penalties.
    """
    sizes = [len(tokens) for tokens, _ in counted]
    tokens = np.concatenate([tokens for tokens, _ in counted])
    repetition = np.repeat([p.repetition_penalty for p in params], sizes)
    lowered = [
        p.frequency_penalty * counts + p.presence_penalty * (counts > 0)
        for p, (_, counts) in zip(params, counted, strict=True)
    ]
    row, column = _to(logits, np.repeat(rows, sizes)), _to(logits, tokens)
    factor, less = _to(logits, repetition.astype(np.float32)), _to(logits, np.concatenate(lowered).astype(np.float32))
    values = logits[row, column]
    logits[row, column] = torch.where(values > 0, values / factor, values * factor) - less


def ban(logits: Tensor, rows: list[int], tokens: list[list[int]]) -> None:
    """Forbid tokens.

    Args:
        logits: float32 [any, vocab], modified in place.
        rows: Which of its rows.
        tokens: For each of these rows, the tokens.
    """
    sizes = [len(row) for row in tokens]
    row, column = np.repeat(rows, sizes), np.array([token for row in tokens for token in row], np.int64)
    logits[_to(logits, row), _to(logits, column)] = float("-inf")


def _to(logits: Tensor, values: np.ndarray) -> Tensor:
    return torch.from_numpy(values).to(logits.device)
