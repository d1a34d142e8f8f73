"""What a generated answer says: all of it, or a field of the JSON object that it is."""

import json
from typing import Any


def parsed(text: str, field: str | None) -> str | None:
    """The part of an answer that accuracy is counted by; None if the text is no JSON object with that field."""
    if field is None:
        return text.strip()
    row = json_object(text)
    if row is None or field not in row:
        return None
    value = row[field]
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def json_object(text: str) -> dict[str, Any] | None:
    """The JSON object that ``text`` is, or None."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
