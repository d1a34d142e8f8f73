"""Reading the small JSON files that models and adapters come with."""

import json
from pathlib import Path
from typing import Any

from alorakit.engine.errors import AlorakitError


def is_file(path: Path) -> bool:
    """Whether ``path`` is a file; False where pathlib raises, such as for a name that is too long."""
    try:
        return path.is_file()
    except OSError:
        return False


def is_folder(path: Path) -> bool:
    """Whether ``path`` is a folder; False where pathlib raises."""
    try:
        return path.is_dir()
    except OSError:
        return False


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


def shard_names(index: Path, error: type[AlorakitError]) -> list[str]:
    """The weights files that a ``model.safetensors.index.json`` lists, each once, in its order."""
    remedy = "download the model again"
    listed = read_json_object(index, error, remedy).get("weight_map")
    if not isinstance(listed, dict) or not listed or not all(isinstance(name, str) for name in listed.values()):
        raise error(f"{index}: weight_map={listed!r:.80} must map tensor names to file names; {remedy}")
    return list(dict.fromkeys(listed.values()))
