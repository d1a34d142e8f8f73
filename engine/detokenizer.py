"""Text of ids that arrive one by one, in constant time per token."""

from collections.abc import Sequence

from alorakit.engine.tokenizer import Tokenizer

_REPLACEMENT = "\ufffd"
# More tokens than that without a character are bytes that are no UTF-8: their text is let out where it is final.
_MAX_PENDING = 16
# A character is at most four bytes of UTF-8, so no more tokens than that can belong to an unfinished one.
_MAX_CHARACTER = 4


class IncrementalDetokenizer:
    """Turns a stream of ids into a stream of text that is never taken back.

    Only a window of ids is decoded again. Its first part is what the previous text came from: a decoder may treat the
    first token of a text specially (SentencePiece drops its space), so new text is what the window's text gains.

        ids     ... | shown already | pending |
                    window start    read      end
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Start an empty stream for ``tokenizer``'s ids."""
        self._tokenizer = tokenizer
        self._window: list[int] = []
        self._read = 0
        self._shown = ""

    @property
    def num_pending(self) -> int:
        """Tokens whose text, or a part of it, is held back."""
        return len(self._window) - self._read

    def push(self, ids: Sequence[int]) -> str:
        """Add ids to the stream.

        Args:
            ids: The next ids, in order; special ids, and ids that are no token, add no text.

        Returns:
            Text that is final by now. An unfinished character (UTF-8 bytes of the same character may follow) is held
            back, and so is a run of byte-fallback tokens (one more byte changes the text of the whole run), so this
            may be empty.
        """
        # Dropped here, not by decode: a long run of ids without text would make the window grow.
        self._window += [token for token in ids if self._tokenizer.has_text(token)]
        if not self.num_pending or self._window[-1] in self._tokenizer.byte_ids:
            return ""
        text = self._tokenizer.decode(self._window)
        if text.endswith(_REPLACEMENT):
            return self._settle(text) if self.num_pending > _MAX_PENDING else ""
        if len(text) <= len(self._shown):
            return ""
        new = text[len(self._shown) :]
        self._window = self._window[self._read :]
        self._read = len(self._window)
        one = self._read == 1
        self._shown = self._tokenizer.text_of(self._window[0]) if one else self._tokenizer.decode(self._window)
        return new

    def flush(self) -> str:
        """End the stream: the text held back, if any (U+FFFD for bytes that never became a character)."""
        new = self._tokenizer.decode(self._window)[len(self._shown) :]
        self._window, self._read, self._shown = [], 0, ""
        return new

    def _settle(self, text: str) -> str:
        """Let out all but the end of a window whose bytes are no UTF-8.

        Cutting inside a character gives a U+FFFD more than the whole does, so where the two parts add up, the first
        is final.
        """
        for cut in range(len(self._window) - 1, len(self._window) - 1 - _MAX_CHARACTER, -1):
            head, tail = self._tokenizer.decode(self._window[:cut]), self._tokenizer.decode(self._window[cut:])
            if head + tail == text:
                new = head[len(self._shown) :]
                self._window, self._read, self._shown = self._window[cut:], 0, ""
                return new
        return ""
