"""From tokens to text, one token at a time: detokenization, stop strings, what is safe to stream."""

from bisect import bisect_right

from alorakit.engine.detokenizer import IncrementalDetokenizer
from alorakit.engine.tokenizer import Tokenizer


class OutputText:
    """The decoded text of one sequence.

    A stop string ends the text once it is complete; of several, the one that is complete first, so that the result
    does not depend on how the text is cut into tokens. As in vLLM, one that is complete within the first
    ``min_tokens`` tokens does not count.

    Attributes:
        text: Text so far; cut before a stop string once one is found.
        token_ids: Ids so far; they end at the last token wholly before a stop string.
    """

    def __init__(self, tokenizer: Tokenizer, stops: tuple[str, ...], min_tokens: int = 0) -> None:
        """Start empty; ``stops`` end the text after ``min_tokens`` tokens."""
        self._tokenizer, self._stops, self._min_tokens = tokenizer, stops, min_tokens
        self._detokenizer = IncrementalDetokenizer(tokenizer)
        # Length of the text that each token completes. Tokens of one character share it, and get it when the
        # character is out, so this may be shorter than the list of tokens.
        self._ends: list[int] = []
        self._raw: list[int] = []
        self._checked = 0  # a stop string that ends within so much text has been looked for, or does not count
        self._streamed = self._streamed_ids = 0
        self.text = ""
        self.token_ids: list[int] = []

    def push(self, token_id: int) -> bool:
        """Add a token; True if a stop string is now complete."""
        self._raw.append(token_id)
        self.token_ids.append(token_id)
        self.text += self._detokenizer.push([token_id])
        return self._advance()

    def push_silent(self, token_id: int) -> None:
        """Add a stop token: it counts as a token and shows no text."""
        self.token_ids.append(token_id)

    def finish(self) -> bool:
        """The sequence ended: let out what was held back (an incomplete character); True if that is a stop."""
        self.text += self._detokenizer.flush()
        return self._advance()

    def stream(self, final: bool = False) -> tuple[str, list[int]]:
        """Text and ids not yet streamed that can no longer become part of a stop string."""
        safe = len(self.text) if final else len(self.text) - self._possible_stop()
        whole = len(self.token_ids) if final else bisect_right(self._ends, safe)
        piece, ids = self.text[self._streamed : safe], self.token_ids[self._streamed_ids : whole]
        self._streamed, self._streamed_ids = max(self._streamed, safe), max(self._streamed_ids, whole)
        return piece, ids

    def _advance(self) -> bool:
        if self._detokenizer.num_pending == 0:
            self._ends += [len(self.text)] * (len(self._raw) - len(self._ends))
        found = bool(self._stops) and len(self._raw) > self._min_tokens and self._find_stop()
        self._checked = len(self.text)
        return found

    def _find_stop(self) -> bool:
        first = min(((at + len(s), at) for s in self._stops if (at := self._find(s)) >= 0), default=None)
        if first is None:
            return False
        self.text = self.text[: first[1]]
        self.token_ids = self._raw[: self._num_whole(first[1])]
        return True

    def _find(self, stop: str) -> int:
        """Where the first occurrence of ``stop`` begins that is not complete within the text checked already."""
        return self.text.find(stop, max(0, self._checked - len(stop) + 1))

    def _num_whole(self, length: int) -> int:
        """Number of tokens that are wholly within the text's first ``length`` characters."""
        num = bisect_right(self._ends, length)
        # The next tokens came out together; some of them may still lie before the cut.
        end = bisect_right(self._ends, self._ends[num]) if num < len(self._ends) else len(self._raw)
        for more in range(end - 1, num, -1):
            if self.text.startswith(self._tokenizer.decode(self._raw[:more]), 0, length):
                return more
        return num

    def _possible_stop(self) -> int:
        """Length of the longest end of the text that begins a stop string."""
        longest = 0
        for stop in self._stops:
            at = self.text.find(stop[0], max(0, len(self.text) - len(stop) + 1))
            while 0 <= at < len(self.text) - longest:
                if stop.startswith(self.text[at:]):
                    longest = len(self.text) - at
                at = self.text.find(stop[0], at + 1)
        return longest
