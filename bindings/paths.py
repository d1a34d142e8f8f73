"""Paths as people write them."""

from pathlib import Path


def existing(path: str | Path) -> Path | None:
    """The path, its ``~`` expanded, if something is there; None too for what no path can be, such as a name too long.

    ``Path`` alone raises errors of several kinds for the latter.
    """
    try:
        found = Path(path).expanduser()
        return found if found.exists() else None
    except (OSError, RuntimeError, ValueError):
        return None
