"""Adapter folders on disk where Mellea only knows repositories of the Hub.

Mellea's documentation gives ``CustomIntrinsicAdapter(model_id=...)`` a path, but Mellea 0.8 hands every name to the
Hub's client, which refuses one, and calls every adapter of a path that begins with ``/home`` "home". It looks the files
up through two functions of ``mellea.formatters.granite.intrinsics``. These, and the constructor, are replaced by ones
that see first whether the name is a folder.
"""

import functools
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mellea.backends.adapters import AdapterType, IntrinsicAdapter, catalog
from mellea.backends.adapters.adapter import CustomIntrinsicAdapter
from mellea.formatters.granite import intrinsics

from alorakit.bindings.paths import existing
from alorakit.engine.errors import AdapterError

_CONFIG = "adapter_config.json"
_CATALOG = threading.RLock()  # while an adapter is made, the catalog's entry of its name is the adapter's own


def accept_local_folders() -> None:
    """Let Mellea's adapters name a folder; may be called again."""
    for name, last in (("obtain_lora", ""), ("obtain_io_yaml", "io.yaml")):
        found = getattr(intrinsics, name)
        if not hasattr(found, "__wrapped__"):
            setattr(intrinsics, name, _folder_first(found, last))
    made = CustomIntrinsicAdapter.__init__
    if not hasattr(made, "__wrapped__"):
        CustomIntrinsicAdapter.__init__ = _of_folder(made)


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


def _of_folder(made: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(made)
    def __init__(self: Any, *, model_id: str | Path, intrinsic_name: str | None = None, base_model_name: str) -> None:
        root = existing(model_id)
        if root is None or not root.is_dir():
            made(self, model_id=model_id, intrinsic_name=intrinsic_name, base_model_name=base_model_name)
            return
        with _CATALOG:
            of_folder(self, root, intrinsic_name, base_model_name)

    def of_folder(self: Any, root: Path, intrinsic_name: str | None, base_model_name: str) -> None:
        name = intrinsic_name or root.resolve().name
        known = catalog._INTRINSICS_CATALOG.get(name)
        capability = known.capability if known is not None else None
        entry = catalog.IntrinsicsCatalogEntry(
            name=name, repo_id=str(root.resolve()), revision="main", capability=capability
        )
        # The adapter copies its entry. One that has the name already, Mellea's own or of another folder, stays.
        catalog._INTRINSICS_CATALOG[name] = entry
        try:
            kind = _kind(root, name, Path(base_model_name).name)
            IntrinsicAdapter.__init__(self, name, kind, base_model_name=base_model_name)
        except BaseException:
            del catalog._INTRINSICS_CATALOG[name]
            raise
        finally:
            if known is not None:
                catalog._INTRINSICS_CATALOG[name] = known
        if known is None:
            catalog._INTRINSICS_CATALOG_ENTRIES.append(entry)

    return __init__


def _kind(root: Path, name: str, base_model: str) -> AdapterType:
    """Whether a folder holds an aLoRA or a LoRA; what is wrong with one that cannot be read is said when it is loaded.

    Raises:
        AdapterError: There is no adapter.
    """
    if not (root / _CONFIG).is_file() and (root / name / base_model / "alora" / _CONFIG).is_file():
        return AdapterType.ALORA
    config = adapter_folder(root, name, base_model, "lora") / _CONFIG
    try:
        activated = json.loads(config.read_text(encoding="utf-8")).get("alora_invocation_tokens")
    except (OSError, ValueError, AttributeError):
        return AdapterType.ALORA
    return AdapterType.LORA if activated is None else AdapterType.ALORA


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
