"""Writing what a command made: whole or not at all."""

import os
import tempfile
from pathlib import Path

from alorakit.engine.errors import TrainingError


def write_whole(path: Path, content: bytes, remedy: str) -> None:
    """Write a file beside and rename it into place, its folder made if it is not there.

    Args:
        path: The file.
        content: All of it.
        remedy: End of the error's message: what to do.

    Raises:
        TrainingError: The disk refused; what was there before is still there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        beside = Path(name)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            beside.chmod(0o644)  # mkstemp's 0600 would hide it from other users
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as exc:
        raise TrainingError(f"{path}: cannot be written ({exc.strerror}); {remedy}") from exc
