"""Guessing an adapter's answer from its past answers, so that one forward pass yields several tokens.

An adapter that checks gives few different answers, again and again. On hardware where one row costs as much as eight,
the rows of a guessed answer are nearly free; tokens are accepted only as far as the model itself chooses them, so the
answers are the same with and without drafts (speculative decoding, Leviathan et al. 2023, with a look-up as draft).
"""

from collections import Counter, deque

from alorakit.engine.sequence import Sequence

REMEMBERED = 64


class AnswerHistory:
    """The last answers of each adapter (by digest); the base model's are too varied to be worth it."""

    def __init__(self, max_tokens: int) -> None:
        """``max_tokens``: longest draft; 0 turns drafting off."""
        self._max_tokens = max_tokens
        self._answers: dict[str, deque[tuple[int, ...]]] = {}

    def add(self, sequence: Sequence) -> None:
        """Remember the answer of a sequence that has ended."""
        if self._max_tokens and sequence.adapter is not None and (answer := sequence.completion):
            digest = sequence.adapter.info.digest
            self._answers.setdefault(digest, deque(maxlen=REMEMBERED)).append(tuple(answer[: 4 * self._max_tokens]))

    def propose(self, sequence: Sequence, limit: int) -> tuple[int, ...]:
        """What will probably follow, ``limit`` tokens at most.

        Only a continuation that was given at least twice is proposed, so that an adapter whose answers differ each
        time costs nothing.
        """
        limit = min(limit, self._max_tokens)
        past = self._answers.get(sequence.adapter.info.digest) if sequence.adapter is not None else None
        if limit < 1 or past is None:
            return ()
        begun = tuple(sequence.completion)
        size = len(begun)
        seen = Counter(a[size : size + limit] for a in past if len(a) > size and a[:size] == begun)
        best, times = max(seen.items(), key=lambda item: item[1], default=((), 0))
        return best if times > 1 else ()
