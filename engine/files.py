"""Reading the small JSON files that models and adapters come with."""

import json
from pathlib import Path
from typing import Any

from alorakit.engine.errors import AlorakitError


def read_json_object(path: Path, error: type[AlorakitError], remedy: str) -> dict[str, Any]:
    """The object in a UTF-8 JSON file.

    Args:
        path: The file.
        error: What to raise when it cannot be read or holds something else.
        remedy: End of the message: what to do then.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as exc:
        raise error(f"{path}: not readable as JSON ({exc}); {remedy}") from exc
    if not isinstance(value, dict):
        raise error(f"{path}: expected a JSON object, found {type(value).__name__}; {remedy}")
    return value
