"""Folders of the Hugging Face Hub: from the local cache if they are whole there, else over the network."""

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from alorakit.engine.errors import ModelNotFoundError
from alorakit.engine.files import is_file, shard_names

# Configuration, tokenizer, templates and safetensors; pickled weights are never fetched, let alone read.
_WANTED = ["*.json", "*.jinja", "*.safetensors", "*.yaml", "*.md"]
_UNWANTED = ["*/*", "consolidated*"]
_PROBE_TIMEOUT_S = 4.0


def is_repo_id(name: str) -> bool:
    """Whether ``name`` could be a Hub id such as ``owner/model``."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def hub_folder(repo_id: str, revision: str | None = None, required: Sequence[str] = ("config.json",)) -> Path:
    """A local folder with the files of a Hub repository.

    Args:
        repo_id: Hub id of a model or an adapter.
        revision: Branch, tag or commit; default: the main branch.
        required: Files without which a cached folder does not count as whole.

    Raises:
        ModelNotFoundError: Neither cached nor reachable, or the repository lacks a required file.
    """
    cached = _cached_folder(repo_id, revision)
    if cached is not None and not _missing(cached, required):
        return cached
    try:
        # Downloading has no limit on the time to connect; this question has, so an unreachable Hub answers in seconds.
        HfApi().model_info(repo_id, revision=revision, timeout=_PROBE_TIMEOUT_S)
        folder = Path(snapshot_download(repo_id, revision=revision, allow_patterns=_WANTED, ignore_patterns=_UNWANTED))
    # The Hub's client lets its HTTP library's errors through, and which library that is depends on its version.
    except Exception as exc:
        raise ModelNotFoundError(_reason(exc)) from exc
    if missing := _missing(folder, required):
        raise ModelNotFoundError(f"the repository has no {' and no '.join(missing)}")
    return folder


def _cached_folder(repo_id: str, revision: str | None) -> Path | None:
    try:
        return Path(snapshot_download(repo_id, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


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


def _reason(exc: Exception) -> str:
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    return (lines[0] if lines else type(exc).__name__).rstrip(".")
