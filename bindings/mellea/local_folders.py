"""Adapter folders on disk where Mellea only knows repositories of the Hub.

Mellea's documentation gives ``CustomIntrinsicAdapter(model_id=...)`` a path, but Mellea 0.8 hands every name to the
Hub's client, which refuses one. It looks the files up through two functions of
``mellea.formatters.granite.intrinsics``; these are replaced by ones that see first whether the name is a folder.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mellea.formatters.granite import intrinsics

from alorakit.bindings.paths import existing
from alorakit.engine.errors import AdapterError

_CONFIG = "adapter_config.json"


def accept_local_folders() -> None:
    """Let Mellea's adapters name a folder; may be called again."""
    for name, last in (("obtain_lora", ""), ("obtain_io_yaml", "io.yaml")):
        found = getattr(intrinsics, name)
        if not hasattr(found, "__wrapped__"):
            setattr(intrinsics, name, _folder_first(found, last))


def _folder_first(download: Callable[..., Path], file: str) -> Callable[..., Path]:
    def obtain(intrinsic_name: str, target_model_name: str, repo_id: str, /, **options: Any) -> Path:
        root = existing(repo_id)
        if root is None or not root.is_dir():
            return download(intrinsic_name, target_model_name, repo_id, **options)
        kind = "alora" if options.get("alora") else "lora"
        folder = adapter_folder(root, intrinsic_name, Path(target_model_name).name, kind)
        if file and not (folder / file).is_file():
            raise AdapterError(
                f"{folder} has no {file}, which tells Mellea how to ask the adapter; write one, or train the adapter "
                "again with m alora train"
            )
        return folder / file

    obtain.__wrapped__ = download  # type: ignore[attr-defined]
    obtain.__doc__ = download.__doc__
    return obtain


def adapter_folder(root: Path, name: str, base_model: str, kind: str) -> Path:
    """The adapter's own folder: ``root`` itself, or, in a collection, ``<name>/<base model>/<lora|alora>`` below it.

    Args:
        root: A folder.
        name: Name of the adapter function.
        base_model: Short name of the base model.
        kind: ``"lora"`` or ``"alora"``.

    Raises:
        AdapterError: Neither holds an adapter.
    """
    inside = root / name / base_model / kind
    for folder in (root, inside):
        if (folder / _CONFIG).is_file():
            return folder
    raise AdapterError(f"neither {root} nor {inside} holds an {_CONFIG}; give the folder that training wrote")
