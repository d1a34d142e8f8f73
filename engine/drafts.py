"""Guessing an adapter's answer from its past answers, so that one forward pass yields several tokens.

An adapter that checks gives few different answers, again and again. On hardware where one row costs as much as eight,
the rows of a guessed answer are nearly free; tokens are accepted only as far as the model itself chooses them, so the
answers are the same with and without drafts (speculative decoding, Leviathan et al. 2023, with a look-up as draft).
"""

from collections import Counter, OrderedDict, defaultdict

from alorakit.engine.sequence import Sequence

# A guess follows from the two tokens before it; beyond so many different pairs an adapter is no checker any more.
ORDER = 2
MAX_CONTEXTS = 4096
# Adapters whose answers are remembered: those used last, so that replaced ones are forgotten.
MAX_ADAPTERS = 256
START = -1


class AnswerHistory:
    """What followed what in each adapter's past answers (by digest); the base model's are too varied to be worth it."""

    def __init__(self, max_tokens: int) -> None:
        """``max_tokens``: longest draft; 0 turns drafting off."""
        self._max_tokens = max_tokens
        self._seen: OrderedDict[str, dict[tuple[int, ...], Counter[int]]] = OrderedDict()

    def add(self, digest: str, answer: list[int]) -> None:
        """Remember an answer of the adapter with that digest."""
        if self._max_tokens == 0:
            return
        seen = self._seen.setdefault(digest, defaultdict(Counter))
        self._seen.move_to_end(digest)
        if len(self._seen) > MAX_ADAPTERS:
            self._seen.popitem(last=False)
        if len(seen) > MAX_CONTEXTS:
            seen.clear()
        padded = (START,) * ORDER + tuple(answer)
        for index, token in enumerate(answer):
            seen[padded[index : index + ORDER]][token] += 1

    def knows(self, sequence: Sequence) -> bool:
        """Whether there are answers to propose from."""
        return sequence.adapter is not None and sequence.adapter.info.digest in self._seen

    def propose(self, sequence: Sequence, limit: int) -> tuple[int, ...]:
        """What will probably follow, ``limit`` tokens at most.

        Only what followed at least twice, and more often than not, is proposed, so that an adapter whose answers differ
        each time costs nothing. A grammar's masks are known one token ahead only, so it excludes drafts.
        """
        if sequence.matcher is not None:
            return ()
        seen = self._seen.get(sequence.adapter.info.digest) if sequence.adapter is not None else None
        draft: list[int] = []
        last = sequence.tokens[max(sequence.num_prompt, len(sequence.tokens) - ORDER) :]
        tail = ((START,) * ORDER + tuple(last))[-ORDER:]
        while seen and len(draft) < min(limit, self._max_tokens) and (after := seen.get(tail)):
            [(token, times)] = after.most_common(1)
            if times < 2 or 2 * times <= after.total():
                break
            draft.append(token)
            tail = (*tail[1:], token)
        return tuple(draft)
