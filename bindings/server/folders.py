"""Where adapters may be loaded from over HTTP: nothing outside these folders is opened, whatever a path says."""

import fnmatch
from collections.abc import Sequence
from pathlib import Path

from alorakit.bindings.server.errors import HttpError
from alorakit.engine.adapter_tensors import WEIGHTS_NAME
from alorakit.engine.errors import AdapterError, ModelNotFoundError, shown
from alorakit.engine.manifest import MANIFEST_NAME

CONFIG_NAME = "adapter_config.json"
# What the engine reads of an adapter's folder, and the most bytes of each that is no weights.
READ = (CONFIG_NAME, WEIGHTS_NAME, MANIFEST_NAME)
MAX_JSON_BYTES = 1 << 20


def allowed_folder(text: str, roots: Sequence[str]) -> Path:
    """The adapter folder that a client names.

    Args:
        text: Its path, absolute or relative to one of ``roots``; without ``..``.
        roots: Folders below which adapters may be loaded.

    Returns:
        Its path without symbolic links, which lies below a root, as do the files in it.

    Raises:
        HttpError: 403: there are no roots, or the path or a file in it leads outside of them.
        AdapterError: Not a folder, or a file in it is none.
    """
    if not roots:
        raise HttpError(
            403, "this server loads no adapters from folders; start it with --adapter-folder FOLDER", param="path"
        )
    places = [Path(root).resolve() for root in roots]
    try:
        folder = _inside(text, roots, places)
        if not folder.is_dir():
            raise AdapterError(f"{text!r:.200} is no folder; give the folder that holds {CONFIG_NAME}")
        for name in READ:
            _check_file(folder / name, places)
    except (OSError, ValueError, RuntimeError) as exc:
        if isinstance(exc, AdapterError | HttpError):
            raise
        reason = getattr(exc, "strerror", None) or exc
        raise AdapterError(f"path {text!r:.200} is not usable ({reason}); give an adapter's folder") from exc
    return folder


def allowed_repo(text: str, revision: str | None, patterns: Sequence[str]) -> Path:
    """The folder of an adapter of the Hub, from the local cache or fetched; takes as long as that takes.

    Args:
        text: ``org/name``, with the adapter's folder below it, if it is not at the root.
        revision: Branch, tag or commit; None: the main branch.
        patterns: Ids that may be loaded from, or patterns of them such as ``org/*``.

    Raises:
        HttpError: 403: the repository is none of those.
        AdapterError: The Hub has no such adapter, or cannot be reached.
    """
    from alorakit.engine.hub import hub_folder, parse_name

    name = parse_name(text)
    if name is None or "/" not in name.repo_id or name.revision is not None:
        raise AdapterError(f"repo={shown(text)} is no repository; give org/name, and the revision in its own field")
    if not any(fnmatch.fnmatchcase(name.repo_id, pattern) for pattern in patterns):
        allowed = ", ".join(patterns) or "none"
        raise HttpError(
            403,
            f"repository {name.repo_id!r} is not among those that adapters may be loaded from ({allowed}); start the "
            "server with --adapter-repo",
            param="repo",
        )
    try:
        return hub_folder(name.repo_id, revision, (CONFIG_NAME, WEIGHTS_NAME), name.folder)
    except ModelNotFoundError as exc:
        raise AdapterError(
            f"{text!r:.200} is no adapter that the Hub has ({exc}); check the id and the network"
        ) from exc


def _inside(text: str, roots: Sequence[str], places: Sequence[Path]) -> Path:
    """The path without symbolic links, once it is known to lie below a place: nothing else is looked at before."""
    path = Path(text)
    if not text or ".." in path.parts:
        raise HttpError(403, f"path {text!r:.200} must name a folder without '..'", param="path")
    candidates = [path] if path.is_absolute() else [place / path for place in places]
    # As it is written, first: a path that begins elsewhere is not followed at all.
    written = [Path(root).absolute() for root in roots]
    below = [c for c in candidates if _is_below(c, [*places, *written])]
    found = [resolved for c in below for resolved in [c.resolve()] if _is_below(resolved, places)]
    if not found:
        raise HttpError(403, f"path {text!r:.200} is not below a folder that adapters may be loaded from", param="path")
    return next((folder for folder in found if folder.is_dir()), found[0])


def _check_file(file: Path, places: Sequence[Path]) -> None:
    """Refuse a file that a link leads out of the places, and what would never end or take all memory to read."""
    if not file.is_symlink() and not file.exists():
        return  # whether that matters is the loader's to say
    target = file.resolve()
    if not _is_below(target, places):
        raise HttpError(403, f"{file.name} leads out of the folders that adapters may be loaded from", param="path")
    if not target.is_file():
        raise AdapterError(f"{file.name} is no file; save or download the adapter again")
    size = target.stat().st_size
    if file.name != WEIGHTS_NAME and size > MAX_JSON_BYTES:
        raise AdapterError(f"{file.name} has {size} bytes, the limit is {MAX_JSON_BYTES}; save the adapter again")


def _is_below(path: Path, places: Sequence[Path]) -> bool:
    return any(path.is_relative_to(place) for place in places)
