"""From tokens to text, one token at a time: detokenization, stop strings, what is safe to stream."""

from bisect import bisect_right

from alorakit.engine.detokenizer import IncrementalDetokenizer
from alorakit.engine.tokenizer import Tokenizer


class OutputText:
    """The decoded text of one sequence.

    Attributes:
        text: Text so far; cut before a stop string once one is found.
        token_ids: Ids so far; they end at the last token wholly before a stop string.
    """

    def __init__(self, tokenizer: Tokenizer, stops: tuple[str, ...]) -> None:
        """Start empty; ``stops`` end the text."""
        self._detokenizer = IncrementalDetokenizer(tokenizer)
        self._stops = stops
        self._ends: list[int] = []  # length of the text that each token completes, or more while it is held back
        self._raw: list[int] = []
        self._streamed = self._streamed_ids = 0
        self.text = ""
        self.token_ids: list[int] = []

    def push(self, token_id: int) -> bool:
        """Add a token; True if a stop string is now complete."""
        self._raw.append(token_id)
        self.token_ids.append(token_id)
        before = len(self.text)
        new = self._detokenizer.push([token_id])
        self.text += new
        # A token that shows nothing yet is part of the next character: it is not wholly before what follows.
        self._ends.append(len(self.text) if new else len(self.text) + 1)
        return self._find_stop(before)

    def push_silent(self, token_id: int) -> None:
        """Add a stop token: it counts as a token and shows no text."""
        self.token_ids.append(token_id)

    def finish(self) -> bool:
        """The sequence ended: let out what was held back (an incomplete character); True if that is a stop."""
        before = len(self.text)
        self.text += self._detokenizer.flush()
        return self._find_stop(before)

    def stream(self, final: bool = False) -> tuple[str, list[int]]:
        """Text and ids not yet streamed that can no longer become part of a stop string."""
        safe = len(self.text) if final else len(self.text) - self._possible_stop()
        whole = len(self.token_ids) if final else bisect_right(self._ends, safe)
        piece, ids = self.text[self._streamed : safe], self.token_ids[self._streamed_ids : whole]
        self._streamed, self._streamed_ids = max(self._streamed, safe), max(self._streamed_ids, whole)
        return piece, ids

    def _find_stop(self, before: int) -> bool:
        found = [at for s in self._stops if (at := self.text.find(s, max(0, before - len(s) + 1))) >= 0]
        if not found:
            return False
        self.text = self.text[: min(found)]
        keep = bisect_right(self._ends, min(found))
        self.token_ids = self._raw[:keep]
        return True

    def _possible_stop(self) -> int:
        """Length of the longest end of the text that begins a stop string."""
        longest = 0
        for stop in self._stops:
            for size in range(min(len(stop) - 1, len(self.text)), longest, -1):
                if self.text.endswith(stop[:size]):
                    longest = size
                    break
        return longest
