"""Text of ids that arrive one by one, in constant time per token."""

from collections.abc import Sequence

from alorakit.engine.tokenizer import Tokenizer

_REPLACEMENT = "\ufffd"


class IncrementalDetokenizer:
    """Turns a stream of ids into a stream of text.

    Only a window of ids is decoded again. Its first part is what the previous text came from: a decoder may treat the
    first token of a text specially (SentencePiece drops its space), so new text is what the window's text gains.

        ids     ... | shown already | new ... |
                    window start    read      end
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Start an empty stream for ``tokenizer``'s ids."""
        self._tokenizer = tokenizer
        self._window: list[int] = []
        self._read = 0
        self._shown = ""

    def push(self, ids: Sequence[int]) -> str:
        """Add ids to the stream.

        Args:
            ids: The next ids, in order; special ids add no text.

        Returns:
            Text that is final by now. An unfinished character (UTF-8 bytes of the same character may follow) is held
            back, so this may be empty.
        """
        # Special ids are dropped here, not by decode: a long run of them would make the window grow.
        self._window += [token for token in ids if token not in self._tokenizer.special_ids]
        text = self._tokenizer.decode(self._window)
        if len(text) <= len(self._shown) or text.endswith(_REPLACEMENT):
            return ""
        new = text[len(self._shown) :]
        self._window = self._window[self._read :]
        self._read = len(self._window)
        self._shown = self._tokenizer.decode(self._window)
        return new

    def flush(self) -> str:
        """End the stream: the text held back, if any (U+FFFD for bytes that never became a character)."""
        new = self._tokenizer.decode(self._window)[len(self._shown) :]
        self._window, self._read, self._shown = [], 0, ""
        return new
