"""Which adapters the engine knows, by name."""

import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from weakref import WeakValueDictionary

from alorakit.engine.adapter_loading import load_adapter
from alorakit.engine.adapters import Adapter, AdapterInfo, AdapterWeights
from alorakit.engine.errors import AdapterError, AdapterNotFoundError, ClosedError, shown
from alorakit.engine.gguf import MARKER_NAME
from alorakit.engine.layouts import LAYOUTS
from alorakit.engine.model import Decoder
from alorakit.engine.pretrained import DEMO_MODEL

_NAMES_SHOWN = 20


class AdapterRegistry:
    """Adapters by name, in host memory; every method may be called from any thread.

    A sequence keeps the :class:`Adapter` it was admitted with, whatever happens here.
    """

    def __init__(self, model: Decoder, base_names: set[str]) -> None:
        """An empty registry for adapters of ``model``, which is known by ``base_names`` (ids or folders)."""
        self._config, self._dtype = model.config, model.dtype
        self._base_names = {_last_part(name) for name in base_names}
        self._lock = threading.Lock()  # held for moments, never while files are read
        self._closed = False
        self._reserved: set[str] = set()  # names that an add in progress will fill
        # Both are replaced, never changed: readers need no lock and see one moment.
        self._adapters: Mapping[str, Adapter] = {}
        self._infos: Mapping[str, AdapterInfo] = MappingProxyType({})
        self._weights: WeakValueDictionary[str, AdapterWeights] = WeakValueDictionary()  # by digest

    def __len__(self) -> int:
        """How many are registered."""
        return len(self._adapters)

    @property
    def infos(self) -> Mapping[str, AdapterInfo]:
        """What is registered, as of now: a read-only snapshot that later calls do not change."""
        return self._infos

    def add(self, name: str, path: str | Path, replace: bool, layout: str | None) -> AdapterInfo:
        """See :meth:`alorakit.Engine.add_adapter`."""
        if not isinstance(name, str) or not name:
            raise AdapterError(f"adapter name {shown(name)} must be a non-empty string")
        if layout is not None and layout not in LAYOUTS:
            raise AdapterError(f"layout={shown(layout)} is not one of {', '.join(LAYOUTS)}")
        if not isinstance(path, str | Path):
            raise AdapterError(f"adapter path {shown(path)} must be a folder's path")
        with self._reservation(name, replace):
            adapter = load_adapter(name, path, self._config, self._dtype, layout)
            base = _last_part(adapter.info.base_model)
            if base and base not in self._base_names:
                warnings.warn(
                    f"adapter {shown(name)} was made for base model {adapter.info.base_model!r}, this engine serves "
                    f"{' or '.join(sorted(self._base_names))}; its answers may be wrong",
                    stacklevel=3,
                )
            self.register(name, adapter)
        return adapter.info

    def register(self, name: str, adapter: Adapter) -> None:
        """Register an adapter that is in memory already, in place of one of that name.

        Raises:
            ClosedError: The engine was closed meanwhile.
        """
        with self._lock:
            if self._closed:
                raise ClosedError("the engine was closed while the adapter was loading; nothing was registered")
            weights = self._weights.setdefault(adapter.info.digest, adapter.weights)
            self._replace_all({**self._adapters, name: Adapter(adapter.info, weights)})

    def remove(self, name: str) -> None:
        """Forget an adapter; AdapterNotFoundError if there is none of that name."""
        with self._lock:
            self.get(name)
            self._replace_all({key: adapter for key, adapter in self._adapters.items() if key != name})

    def get(self, name: str | None) -> Adapter | None:
        """The adapter of that name; None for None (the base model)."""
        if name is None:
            return None
        adapters = self._adapters
        if not isinstance(name, str) or name not in adapters:
            known = [*sorted(adapters)[:_NAMES_SHOWN], *(["…"] if len(adapters) > _NAMES_SHOWN else [])]
            raise AdapterNotFoundError(
                f"no adapter named {shown(name)}; registered: {', '.join(known) or 'none'}; add it with add_adapter"
            )
        return adapters[name]

    def close(self) -> None:
        """Forget every adapter; an add in progress ends with ClosedError."""
        with self._lock:
            self._closed = True
            self._replace_all({})

    @contextmanager
    def _reservation(self, name: str, may_replace: bool) -> Iterator[None]:
        """Keep other adds away from a name until the block ends, however it ends."""
        with self._lock:
            if name in self._reserved:
                raise AdapterError(
                    f"adapter {shown(name)} is being added by another call; wait for it, or use another name"
                )
            if name in self._adapters and not may_replace:
                raise AdapterError(f"adapter {shown(name)} is already registered; pass replace=True or another name")
            self._reserved.add(name)
        try:
            yield
        finally:
            with self._lock:
                self._reserved.remove(name)

    def _replace_all(self, adapters: Mapping[str, Adapter]) -> None:
        self._adapters = adapters
        self._infos = MappingProxyType({name: adapter.info for name, adapter in adapters.items()})


def known_names(path: Path) -> set[str]:
    """Names by which a model folder may be known: its own, and the Hub id that a Hub or demo folder stands for."""
    folder = path.resolve()
    names = {folder.name} | {part.split("--")[-1] for part in folder.parts if part.startswith("models--")}
    return names | {DEMO_MODEL} if (folder / MARKER_NAME).is_file() else names


def _last_part(name: str) -> str:
    return name.rstrip("/").split("/")[-1].lower()
