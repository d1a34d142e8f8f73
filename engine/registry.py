"""Which adapters the engine knows, by name."""

import warnings
from pathlib import Path

from alorakit.engine.adapters import Adapter, AdapterInfo, load_adapter
from alorakit.engine.errors import AdapterError, AdapterNotFoundError
from alorakit.engine.gguf import MARKER_NAME
from alorakit.engine.layouts import LAYOUTS
from alorakit.engine.model import Decoder
from alorakit.engine.pretrained import DEMO_MODEL


class AdapterRegistry:
    """Adapters by name. A sequence keeps the :class:`Adapter` it was admitted with, whatever happens here."""

    def __init__(self, model: Decoder, base_names: set[str]) -> None:
        """An empty registry for adapters of ``model``, which is known by ``base_names`` (ids or folders)."""
        self._model = model
        self._base_names = {_last_part(name) for name in base_names}
        self._adapters: dict[str, Adapter] = {}

    def __len__(self) -> int:
        """How many are registered."""
        return len(self._adapters)

    @property
    def infos(self) -> dict[str, AdapterInfo]:
        """What is registered."""
        return {name: adapter.info for name, adapter in self._adapters.items()}

    def add(self, name: str, path: str | Path, replace: bool, layout: str | None) -> AdapterInfo:
        """See :meth:`alorakit.Engine.add_adapter`."""
        if not isinstance(name, str) or not name:
            raise AdapterError(f"adapter name {name!r} must be a non-empty string")
        if name in self._adapters and not replace:
            raise AdapterError(f"adapter {name!r} is already registered; pass replace=True or another name")
        if layout is not None and layout not in LAYOUTS:
            raise AdapterError(f"layout={layout!r} is not one of {', '.join(LAYOUTS)}")
        if not isinstance(path, str | Path):
            raise AdapterError(f"adapter path {path!r} must be a folder's path")
        model = self._model
        adapter = load_adapter(name, path, model.config, model.device, layout)
        base = _last_part(adapter.info.base_model)
        if base and base not in self._base_names:
            warnings.warn(
                f"adapter {name!r} was made for base model {adapter.info.base_model!r}, this engine serves "
                f"{' or '.join(sorted(self._base_names))}; its answers may be wrong",
                stacklevel=3,
            )
        self._adapters[name] = adapter
        return adapter.info

    def remove(self, name: str) -> None:
        """Forget an adapter; AdapterNotFoundError if there is none of that name."""
        self.get(name)
        del self._adapters[name]

    def get(self, name: str | None) -> Adapter | None:
        """The adapter of that name; None for None (the base model)."""
        if name is None:
            return None
        if not isinstance(name, str) or name not in self._adapters:
            known = ", ".join(sorted(self._adapters)) or "none"
            raise AdapterNotFoundError(f"no adapter named {name!r}; registered: {known}; add it with add_adapter")
        return self._adapters[name]

    def clear(self) -> None:
        """Forget every adapter."""
        self._adapters.clear()


def known_names(path: Path) -> set[str]:
    """Names by which a model folder may be known: its own, and the Hub id that a Hub or demo folder stands for."""
    folder = path.resolve()
    names = {folder.name} | {part.split("--")[-1] for part in folder.parts if part.startswith("models--")}
    return names | {DEMO_MODEL} if (folder / MARKER_NAME).is_file() else names


def _last_part(name: str) -> str:
    return name.rstrip("/").split("/")[-1].lower()
