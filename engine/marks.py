"""Marks: random digits that stand, in a rendered chat, for what must not be tokenized as plain template text.

Two things are marked: a special token's text inside somebody's message (``open TEXT close``), and the whole content of
a message whose ids are known (one sentinel). Digits only, because a template may trim, change case, escape or dump to
JSON, and none of that alters digits; random, so that no message can contain a mark.
"""

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_NONCE_DIGITS = 24
_INDEX_DIGITS = 6


@dataclass(frozen=True)
class Piece:
    """A run of a rendered chat.

    Attributes:
        text: Template text, or the special text that was marked.
        literal: Whether ``text`` must be encoded without matching any special token.
        message: Index of the message whose own ids stand here; then ``text`` is empty.
    """

    text: str = ""
    literal: bool = False
    message: int | None = None


class Marks:
    """The marks of one rendering."""

    def __init__(self, control_tokens: Sequence[str]) -> None:
        """Draw fresh marks.

        Args:
            control_tokens: Texts that :meth:`protect` marks; empty to mark none.
        """
        nonce = "".join(secrets.choice("0123456789") for _ in range(_NONCE_DIGITS))
        self._open, self._close, self._sentinel = nonce + "1", nonce + "2", nonce + "3"
        # Longest first, so that a token wins over a token it contains.
        alternatives = "|".join(re.escape(token) for token in sorted(control_tokens, key=len, reverse=True))
        self._control = re.compile(alternatives) if alternatives else None
        wrapped = f"{self._open}({alternatives}){self._close}" if alternatives else "(?!)()"
        # A template that splits a string can part the brackets; a lone one is dropped, but still separates the text.
        self._pattern = re.compile(f"{wrapped}|{self._sentinel}([0-9]{{{_INDEX_DIGITS}}})|{self._open}|{self._close}")

    def protect(self, value: Any) -> Any:
        """A copy of ``value`` with the control tokens in its strings marked, in those of lists and mappings too."""
        if self._control is None:
            return value
        if isinstance(value, str):
            return self._control.sub(lambda match: self._open + match.group() + self._close, value)
        if isinstance(value, Mapping):
            return {self.protect(key): self.protect(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.protect(item) for item in value]
        return value

    def sentinel(self, message: int) -> str:
        """The text that stands for message number ``message`` (below 1,000,000)."""
        return f"{self._sentinel}{message:0{_INDEX_DIGITS}d}"

    def restore(self, text: str, contents: Sequence[str]) -> str:
        """``text`` with every sentinel replaced by ``contents[message]``."""
        return re.sub(f"{self._sentinel}([0-9]{{{_INDEX_DIGITS}}})", lambda match: contents[int(match.group(1))], text)

    def split(self, text: str) -> list[Piece]:
        """Cut a rendering at its marks; the pieces in order, without the marks and without empty text."""
        pieces, start = [], 0
        for match in self._pattern.finditer(text):
            pieces.append(Piece(text[start : match.start()]))
            if match.group(1) is not None:
                pieces.append(Piece(match.group(1), literal=True))
            elif match.group(2) is not None:
                pieces.append(Piece(message=int(match.group(2))))
            start = match.end()
        pieces.append(Piece(text[start:]))
        return [piece for piece in pieces if piece.text or piece.message is not None]
