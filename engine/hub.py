"""Folders of the Hugging Face Hub: from the local cache if they are whole there, else over the network."""

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from alorakit.engine.errors import ModelNotFoundError
from alorakit.engine.files import is_file, shard_names
from alorakit.engine.hub_errors import reason

# Configuration, tokenizer, templates and safetensors; pickled weights are never fetched, let alone read.
_WANTED = ["*.json", "*.jinja", "*.safetensors", "*.yaml", "*.md"]
_UNWANTED = ["*/*", "consolidated*"]
_PROBE_TIMEOUT_S = 4.0
_ADAPTER = "adapter_config.json"
_MAX_NAMED = 8


@dataclass(frozen=True)
class HubName:
    """What ``owner/name[/folder][@revision]`` names.

    Attributes:
        repo_id: ``owner/name``, or a name alone.
        folder: Folder in the repository; empty: its root.
        revision: Branch, tag or commit; None: the main branch.
    """

    repo_id: str
    folder: str = ""
    revision: str | None = None


def is_repo_id(name: str) -> bool:
    """Whether ``name`` could be a Hub id such as ``owner/model``."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def parse_name(text: str) -> HubName | None:
    """Read ``owner/name``, ``owner/name@revision``, ``owner/name/folder@revision``; None if it is none of them."""
    place, at, revision = text.partition("@")
    parts = place.split("/")
    repo_id, folders = "/".join(parts[:2]), parts[2:]
    if not is_repo_id(repo_id) or (at and not revision) or {"", ".", ".."} & {*folders, *revision.split("/")[1:]}:
        return None
    return HubName(repo_id, "/".join(folders), revision or None)


def hub_folder(
    repo_id: str, revision: str | None = None, required: Sequence[str] = ("config.json",), subfolder: str = ""
) -> Path:
    """A local folder with the files of a Hub repository.

    What is cached is used as it is, and the Hub is not asked for news of a branch.

    Args:
        repo_id: Hub id of a model or an adapter.
        revision: Branch, tag or commit; default: the main branch.
        required: Files without which a cached folder does not count as whole.
        subfolder: Folder in the repository, its parts separated by ``/``; empty: the root.

    Raises:
        ModelNotFoundError: Neither cached nor reachable, or the repository lacks a required file.
    """
    cached = cached_folder(repo_id, revision, subfolder)
    if cached is not None and not _missing(cached, required):
        return cached
    try:
        # Downloading has no limit on the time to connect; this question has, so an unreachable Hub answers in seconds.
        info = HfApi().model_info(repo_id, revision=revision, timeout=_PROBE_TIMEOUT_S)
        wanted, unwanted = _patterns(subfolder)
        found = snapshot_download(repo_id, revision=revision, allow_patterns=wanted, ignore_patterns=unwanted)
    # The Hub's client lets its HTTP library's errors through, and which library that is depends on its version.
    except Exception as exc:
        raise ModelNotFoundError(reason(exc, repo_id, revision)) from exc
    folder = Path(found) / subfolder
    if missing := _missing(folder, required):
        names = [sibling.rfilename for sibling in info.siblings or ()]
        where = f" in {subfolder}" if subfolder else ""
        raise ModelNotFoundError(
            f"the repository has no {' and no '.join(missing)}{where}{_collection(repo_id, names, required)}"
        )
    return folder


def cached_folder(repo_id: str, revision: str | None = None, subfolder: str = "") -> Path | None:
    """The folder in the local cache, if all files that would be fetched are there; no network."""
    wanted, unwanted = _patterns(subfolder)
    try:
        found = snapshot_download(
            repo_id, revision=revision, local_files_only=True, allow_patterns=wanted, ignore_patterns=unwanted
        )
    except LocalEntryNotFoundError:
        return None
    return Path(found) / subfolder


def _patterns(subfolder: str) -> tuple[list[str], list[str]]:
    """What to fetch of a folder, and what of that to leave."""
    inside = f"{glob.escape(subfolder)}/" if subfolder else ""
    return [inside + pattern for pattern in _WANTED], [inside + pattern for pattern in _UNWANTED]


def _collection(repo_id: str, names: Sequence[str], required: Sequence[str]) -> str:
    """Where in the repository adapters lie, if one is looked for: the end of a message."""
    folders = sorted(name.rpartition("/")[0] for name in names if name.endswith(f"/{_ADAPTER}"))
    if _ADAPTER not in required or not folders:
        return ""
    more = f" and {len(folders) - _MAX_NAMED} more" if len(folders) > _MAX_NAMED else ""
    return f"; it has adapters in {', '.join(folders[:_MAX_NAMED])}{more}: give {repo_id}/{folders[0]}"


def _missing(folder: Path, required: Sequence[str]) -> list[str]:
    """The required files, and the weights an index lists, that the folder lacks (an interrupted download)."""
    missing = [name for name in required if not (folder / name).is_file()]
    index = folder / "model.safetensors.index.json"
    if "config.json" in required and not missing and not (folder / "model.safetensors").is_file():
        if not index.is_file():
            return ["model.safetensors"]
        try:
            missing = sorted(name for name in shard_names(index, ModelNotFoundError) if not is_file(folder / name))
        except ModelNotFoundError:  # cut off: as good as absent
            return [index.name]
    return missing
