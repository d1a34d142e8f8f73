"""Where adapters may be loaded from over HTTP: nothing outside these folders is opened, whatever a path says."""

import errno
import fnmatch
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from alorakit.bindings.server.errors import HttpError
from alorakit.engine.adapter_tensors import WEIGHTS_NAME
from alorakit.engine.errors import AdapterError, ModelNotFoundError, shown
from alorakit.engine.manifest import MANIFEST_NAME

CONFIG_NAME = "adapter_config.json"
# What the engine reads of an adapter's folder, and the most bytes of each that is no weights.
READ = (CONFIG_NAME, WEIGHTS_NAME, MANIFEST_NAME)
MAX_JSON_BYTES = 1 << 20

# Linux: a handle that looks at nothing, through which the file can be opened whatever its path leads to by then.
_HANDLES = Path("/proc/self/fd")
_LOOK = getattr(os, "O_PATH", os.O_RDONLY | os.O_NONBLOCK) | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def allowed_folder(text: str, roots: Sequence[str]) -> Iterator[Path]:
    """The adapter folder that a client names, to be read within the block.

    On Linux it is a folder of handles on the files that were checked: whoever can write into the named folder may
    swap a file for a link meanwhile, and the file that was checked is read all the same.

    Args:
        text: Its path, absolute or relative to one of ``roots``; without ``..``.
        roots: Folders below which adapters may be loaded.

    Raises:
        HttpError: 403: there are no roots, or the path or a file in it leads outside of them.
        AdapterError: Not a folder, or a file in it is none.
    """
    if not roots:
        raise HttpError(
            403, "this server loads no adapters from folders; start it with --adapter-folder FOLDER", param="path"
        )
    places = [Path(root).resolve() for root in roots]
    with ExitStack() as opened:
        try:
            folder = _inside(text, roots, places)
            if not folder.is_dir():
                raise AdapterError(f"{text!r:.200} is no folder; give the folder that holds {CONFIG_NAME}")
            handles = {name: _checked(folder / name, places, opened) for name in READ}
        except (OSError, ValueError, RuntimeError) as exc:
            if isinstance(exc, AdapterError | HttpError):
                raise
            # A RuntimeError is a circle of links, and its text says where the server's folders are.
            reason = getattr(exc, "strerror", None) or ("links in a circle" if isinstance(exc, RuntimeError) else exc)
            raise AdapterError(f"path {text!r:.200} is not usable ({reason}); give an adapter's folder") from exc
        if not _HANDLES.is_dir():
            yield folder
            return
        private = Path(opened.enter_context(TemporaryDirectory(prefix="alorakit-"))) / folder.name
        private.mkdir()
        for name, handle in handles.items():
            if handle is not None:
                (private / name).symlink_to(_HANDLES / str(handle))
        yield private


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


def _checked(file: Path, places: Sequence[Path], opened: ExitStack) -> int | None:
    """A handle on a file, closed with ``opened``; None if there is none, which is the loader's to judge.

    Refused are a file that a link leads out of the places, and what would never end or take all memory to read.
    """
    target = file.resolve()
    try:
        handle = _open_below(target, places, opened)
    except FileNotFoundError:
        return None
    except OSError as exc:
        if exc.errno not in (errno.ELOOP, errno.ENOTDIR):  # what a link in place of a file or folder gives
            raise
        handle = None
    if handle is None:
        raise HttpError(403, f"{file.name} leads out of the folders that adapters may be loaded from", param="path")
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode):
        raise AdapterError(f"{file.name} is no file; save or download the adapter again")
    if file.name != WEIGHTS_NAME and found.st_size > MAX_JSON_BYTES:
        raise AdapterError(
            f"{file.name} has {found.st_size} bytes, the limit is {MAX_JSON_BYTES}; save the adapter again"
        )
    return handle


def _open_below(target: Path, places: Sequence[Path], opened: ExitStack) -> int | None:
    """A handle on a file, step by step from a place, so that no link is followed; None if it lies below none."""
    place = next((place for place in places if _is_below(target, [place])), None)
    if place is None:
        return None
    *folders, name = target.relative_to(place).parts
    handle = os.open(place, _LOOK | os.O_DIRECTORY)
    opened.callback(os.close, handle)
    for part in folders:
        handle = os.open(part, _LOOK | os.O_DIRECTORY, dir_fd=handle)
        opened.callback(os.close, handle)
    handle = os.open(name, _LOOK, dir_fd=handle)
    opened.callback(os.close, handle)
    return handle


def _is_below(path: Path, places: Sequence[Path]) -> bool:
    return any(path.is_relative_to(place) for place in places)
