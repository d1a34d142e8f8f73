"""Tool calls, which models write as text, each family in its own way.

    Qwen, Hermes, SmolLM    <tool_call>{"name": ..., "arguments": {...}}</tool_call>, several, after a text or not
    Granite                 <|tool_call|>[{"name": ..., "arguments": {...}}, ...]
    Llama                   {"name": ..., "parameters": {...}}, or <|python_tag|> before it

Granite's and Llama's marks are special tokens, which the text does not show.
"""

import json
import re
import secrets
from collections.abc import Collection
from typing import Any

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_MARKS = ("<|tool_call|>", "<|python_tag|>")
_BLOCKS = re.compile(rf"{_OPEN}\s*(.*?)\s*(?:{_CLOSE}\s*|\Z)", re.DOTALL)


def parse_calls(text: str, names: Collection[str]) -> tuple[str, list[dict[str, Any]]]:
    """The text before the calls, and the calls as OpenAI has them; all of the text, where there are none.

    Args:
        text: What the model wrote.
        names: The tools that it may call; what looks like a call of another is text.
    """
    before, mark, _ = text.partition(_OPEN)
    if mark:
        found = [_load(block) for block in _BLOCKS.findall(text, len(before))]
    else:
        before, found = "", _load_all(_without_marks(text))
    calls = [_call(item, names) for item in found]
    whole = [call for call in calls if call is not None]
    return (before.rstrip(), whole) if whole and len(whole) == len(calls) else (text, [])


class ToolText:
    """A streamed text: what may be part of a call is held back until the end tells."""

    def __init__(self, names: Collection[str]) -> None:
        """For answers that may call the tools ``names``."""
        self._names = names
        self._text = ""
        self._shown = 0

    def push(self, piece: str) -> str:
        """Add a piece of text; what can be shown by now."""
        self._text += piece
        safe = self._safe()
        shown, self._shown = self._text[self._shown : safe], max(self._shown, safe)
        return shown

    def finish(self) -> tuple[str, list[dict[str, Any]]]:
        """The text still to be shown, and the calls."""
        text, calls = parse_calls(self._text, self._names)
        return text[self._shown :], calls

    def _safe(self) -> int:
        """How much of the text is no call, whatever follows."""
        begun = self._text.lstrip()
        if begun[:1] in ("", "{", "[") or any(m.startswith(begun) or begun.startswith(m) for m in _MARKS):
            return 0
        at = self._text.find(_OPEN)
        if at < 0:
            held = next(size for size in range(len(_OPEN), -1, -1) if self._text.endswith(_OPEN[:size]))
            at = len(self._text) - held
        return len(self._text[:at].rstrip())  # blanks before a call are not shown


def _without_marks(text: str) -> str:
    text = text.strip()
    for mark in _MARKS:
        text = text.removeprefix(mark)
    return text


def _load(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _load_all(text: str) -> list[Any]:
    found = _load(text)
    return found if isinstance(found, list) else [found]


def _call(item: Any, names: Collection[str]) -> dict[str, Any] | None:
    if not isinstance(item, dict) or item.get("name") not in names:
        return None
    arguments = item.get("arguments", item.get("parameters", {}))
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    function = {"name": item["name"], "arguments": arguments}
    return {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function}
