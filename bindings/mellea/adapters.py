"""Mellea's adapters on this engine: what is registered, under which name, and how each is asked."""

import threading
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mellea.backends.adapters import (
    Adapter,
    EmbeddedBinding,
    EmbeddedIntrinsicAdapter,
    Identity,
    IntrinsicAdapter,
    LocalFileBinding,
    LocalHFAdapter,
    WeightsBinding,
    get_io_contract,
)
from mellea.backends.adapters.adapter import _composed_adapter_key
from mellea.core import MelleaLogger

from alorakit.bindings.mellea.io_contract import AnyJson, IoYaml
from alorakit.bindings.session.adapter import CustomIntrinsicAdapter as FolderAdapter
from alorakit.engine.adapters import AdapterInfo
from alorakit.engine.engine import Engine
from alorakit.engine.errors import AdapterError, AdapterNotFoundError


class UnsupportedAdapterError(AdapterError, TypeError):
    """An adapter of a kind that this backend cannot serve."""


@dataclass(frozen=True)
class Entry:
    """One adapter that a backend has.

    Attributes:
        name: Name of the adapter function.
        engine_name: What the engine knows the weights by.
        folder: Where they are.
        io: How Mellea asks it (``io.yaml``); None: only checks of our own can use it.
    """

    name: str
    engine_name: str
    folder: Path
    io: IoYaml | None


class FolderBinding(WeightsBinding):  # type: ignore[misc]
    """Weights that :meth:`MelleaBackend.add_adapter` loaded from a folder itself; there is nothing left to prepare."""

    binding_type = "local_file"

    def __init__(self, folder: Path) -> None:
        """Weights of ``folder``."""
        self.folder, self.revision = folder, None

    def prepare(self) -> None:
        """Nothing: the weights are loaded."""

    def activate(self) -> None:
        """Nothing: each request names its adapter."""

    def deactivate(self) -> None:
        """Nothing: see :meth:`activate`."""

    def release(self) -> None:
        """Nothing: :meth:`MelleaBackend.remove_adapter` lets the weights go."""


class Adapters:
    """The adapters of one backend. Any thread may call; the engine loads one at a time.

    Attributes:
        added: Mellea's adapters and bindings by qualified name.
        composed: Composed adapters by qualified name, for ``AdapterMixin``'s own look-ups.
        entries: How each is served, by qualified name.
        loaded: Qualified names of those whose weights the engine has.
    """

    def __init__(self, engine: Engine) -> None:
        """None yet, on ``engine``."""
        self._engine = engine
        self.lock = threading.RLock()
        self.added: dict[str, Any] = {}
        self.composed: dict[str, Any] = {}
        self.entries: dict[str, Entry] = {}
        self.loaded: set[str] = set()

    def entry(self, key: str) -> Entry:
        """How an adapter is served.

        Raises:
            AdapterNotFoundError: It was not added, or was removed meanwhile.
        """
        entry = self.entries.get(key)
        if entry is None:
            raise AdapterNotFoundError(
                f"adapter {key!r} is not registered; registered are {sorted(self.entries)}; call add_adapter"
            )
        return entry

    def adapter(self, key: str) -> Any:
        """Mellea's adapter, a bare binding where no adapter holds it, or None if it was removed meanwhile."""
        return self.composed.get(key) or self.added.get(key)

    def info(self, key: str) -> AdapterInfo:
        """What the engine knows of an adapter.

        Raises:
            AdapterNotFoundError: It is not registered, or its weights are not loaded.
        """
        name = self.entry(key).engine_name
        infos = self._engine.adapters
        if name not in infos:
            raise AdapterNotFoundError(f"adapter {key!r} is registered but not loaded; call load_peft_adapter({key!r})")
        return infos[name]

    def infos(self) -> dict[str, AdapterInfo]:
        """What the engine knows of the loaded ones, by qualified name."""
        infos = self._engine.adapters
        return {key: infos[e.engine_name] for key, e in list(self.entries.items()) if e.engine_name in infos}

    def find(self, name: str, kinds: tuple[str, ...]) -> str | None:
        """Qualified name of the first adapter of a name, or for a capability, in the order of ``kinds``; None: none."""
        for kind in kinds:
            for key in list(self.entries):
                identity: Any = getattr(self.adapter(key), "identity", None)
                if identity is None or identity.adapter_type != kind:
                    continue
                if name in (identity.name, identity.capability):
                    return key
        return None

    def add(self, backend: Any, adapter: Any, base_model_name: str, config: dict[str, Any] | None) -> None:
        """Register an adapter and load its weights; see :meth:`MelleaBackend.add_adapter`."""
        if isinstance(adapter, str | Path):
            adapter = FolderAdapter(model_id=adapter, base_model_name=base_model_name)
        if isinstance(adapter, EmbeddedIntrinsicAdapter) or isinstance(
            getattr(adapter, "weights", None), EmbeddedBinding
        ):
            raise UnsupportedAdapterError(
                "adapters embedded in a checkpoint (Granite Switch) are not served; give the adapter's own LoRA or "
                "aLoRA folder or repository"
            )
        if config is not None:
            raise UnsupportedAdapterError(
                "config= is for embedded adapters; a folder's io.yaml is read from the folder"
            )
        if isinstance(adapter, FolderAdapter):
            self._add_folder(adapter, base_model_name)
        elif isinstance(adapter, Adapter) and not isinstance(adapter, IntrinsicAdapter):
            self._add_composed(backend, adapter)
        elif isinstance(adapter, LocalHFAdapter | LocalFileBinding):
            self._add_shim(backend, adapter, base_model_name)
        else:
            raise UnsupportedAdapterError(
                f"cannot add a {type(adapter).__name__}; give a folder, an IntrinsicAdapter, a "
                "CustomIntrinsicAdapter, a LocalFileBinding or an Adapter with one"
            )

    def load(self, key: str) -> None:
        """Give the engine an adapter's weights, if it does not have them.

        Raises:
            AdapterNotFoundError: It was not added.
            AdapterError: The folder cannot be loaded.
        """
        with self.lock:
            entry = self.entry(key)
            if key not in self.loaded:
                self._engine.add_adapter(entry.engine_name, entry.folder)
                self.loaded.add(key)

    def unload(self, key: str) -> None:
        """Take an adapter's weights from the engine; requests under way keep them."""
        with self.lock:
            if key in self.loaded:
                self._engine.remove_adapter(self.entries[key].engine_name)
                self.loaded.discard(key)

    def remove(self, key: str) -> None:
        """Forget an adapter.

        Raises:
            AdapterError: It is still loaded.
        """
        with self.lock:
            if key in self.loaded:
                raise AdapterError(f"adapter {key!r} is still loaded; call unload_peft_adapter({key!r}) first")
            adapter = self.added.pop(key, None)
            for registry in (self.composed, self.entries):
                registry.pop(key, None)
            if isinstance(adapter, LocalHFAdapter | LocalFileBinding):
                adapter.backend = adapter.path = None

    def _add_folder(self, adapter: FolderAdapter, base_model_name: str) -> None:
        if Path(adapter.base_model_name).name.casefold() != base_model_name.casefold():
            warnings.warn(
                f"adapter {adapter.name!r} names the base model {adapter.base_model_name!r}, but {base_model_name!r} "
                "is loaded",
                stacklevel=4,
            )
        folder = adapter.folder()
        io = IoYaml.of_folder(folder)
        with self.lock:
            if any(entry.name == adapter.name for entry in self.entries.values()):
                raise AdapterError(
                    f"an adapter named {adapter.name!r} is registered; remove it first, or choose a name"
                )
            info = self._engine.add_adapter(adapter.name, folder)
            key = f"{adapter.name}_{info.kind}"
            self.composed[key] = self.added[key] = _composed(info, folder)
            self.loaded.add(key)
            self.entries[key] = Entry(adapter.name, adapter.name, folder, io)

    def _add_shim(self, backend: Any, adapter: Any, base_model_name: str) -> None:
        key = adapter.qualified_name
        if not self._is_new(backend, adapter):
            return
        folder = Path(adapter.get_local_hf_path(base_model_name))  # may be fetched; nobody else waits for that
        config = getattr(adapter, "config", None)
        io = IoYaml.of(config, f"the io.yaml of {key}") if config is not None else IoYaml.of_folder(folder)
        with self.lock:
            if not self._is_new(backend, adapter):
                return
            self._engine.add_adapter(key, folder)
            adapter.path, adapter.backend = str(folder), backend
            self.added[key] = adapter
            self.loaded.add(key)
            self.entries[key] = Entry(adapter.name, key, folder, io)

    def _is_new(self, backend: Any, adapter: Any) -> bool:
        """Whether an adapter is still to be registered; False, after a warning, if it or another of its name is.

        Raises:
            AdapterError: It belongs to another backend.
        """
        key = adapter.qualified_name
        if adapter.backend is not None and adapter.backend is not backend:
            raise AdapterError(f"adapter {key!r} was added to another backend; make a new one for this")
        if adapter.backend is not None:
            MelleaLogger.get_logger().warning("adapter %s is registered already; nothing to do", key)
        elif key in self.entries:
            MelleaLogger.get_logger().warning(
                "an adapter is registered as %s already and keeps the name; remove it before adding another", key
            )
        return adapter.backend is None and key not in self.entries

    def _add_composed(self, backend: Any, adapter: Any) -> None:
        key, binding = _composed_adapter_key(adapter), adapter.weights
        if not isinstance(binding, LocalFileBinding):
            raise UnsupportedAdapterError(
                f"an adapter with a {type(binding).__name__} is not served; give it a LocalFileBinding"
            )
        named = (binding.name, binding.adapter_type.value)
        if (adapter.identity.name, adapter.identity.adapter_type) != named:
            raise AdapterError(
                f"the adapter says {adapter.identity.name!r} ({adapter.identity.adapter_type}) and its weights say "
                f"{binding.name!r} ({binding.adapter_type.value}); name and type must agree"
            )
        if key in self.composed or self.added.get(key, binding) is not binding:
            MelleaLogger.get_logger().warning(
                "an adapter is registered as %s already and keeps the name; remove it before adding another", key
            )
            return
        binding.bind_backend(backend)
        # Comes back to add() with the binding. Mellea takes the binding's lock before the backend's, in release() too;
        # so the backend's must not be held here.
        binding.prepare()
        with binding.hold_prepared(backend), self.lock:
            self.composed.setdefault(key, adapter)


def _composed(info: AdapterInfo, folder: Path) -> Any:
    """Mellea's view of an adapter that the engine loaded from a folder."""
    capability = (info.manifest.capability if info.manifest is not None else None) or info.name
    with warnings.catch_warnings():  # Mellea warns of every capability that is not in its own list
        warnings.simplefilter("ignore", UserWarning)
        identity = Identity(info.name, info.kind, capability)
    return Adapter(identity, _contract(capability), FolderBinding(folder))


def _contract(name: str) -> Any:
    """Mellea's contract for a capability of its own; any JSON otherwise."""
    try:
        return get_io_contract(name)
    except (KeyError, ValueError):
        return AnyJson()
