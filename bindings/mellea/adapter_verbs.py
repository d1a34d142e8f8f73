"""What Mellea does with a backend's adapters."""

from pathlib import Path
from threading import RLock
from typing import Any

from mellea.backends.adapters import AdapterMixin

from alorakit.bindings.mellea.adapters import Adapters


class AdapterVerbs(AdapterMixin):  # type: ignore[misc]
    """The verbs of ``AdapterMixin``, for adapters that the engine serves: each request names its own."""

    _supports_composed_adapters = True
    _adapters: Adapters
    _model_id: str
    _resolve_lock: Any

    def _serve_adapters(self, adapters: Adapters) -> None:
        self._adapters, self._resolve_lock = adapters, RLock()

    @property
    def base_model_name(self) -> str:
        """Short name of the base model."""
        return Path(self._model_id).name

    @property
    def _added_adapters(self) -> dict[str, Any]:
        return self._adapters.added

    @property
    def _composed_adapters(self) -> dict[str, Any]:
        return self._adapters.composed

    def add_adapter(self, adapter: Any, *, config: dict[str, Any] | None = None) -> None:
        """Register an adapter and load its weights; requests may run meanwhile.

        Args:
            adapter: A folder or Hub id, alorakit's or Mellea's CustomIntrinsicAdapter, an IntrinsicAdapter, a
                LocalFileBinding, or an Adapter with one.
            config: Must be None: ``io.yaml`` is read from the adapter's folder.

        Raises:
            UnsupportedAdapterError: An adapter of another kind (embedded in a checkpoint, served elsewhere).
            AdapterError: The folder or its ``io.yaml`` cannot be used; nothing is registered then.
        """
        self._adapters.add(self, adapter, self.base_model_name, config)

    def list_adapters(self) -> list[str]:
        """Qualified names (``<name>_<lora|alora>``) of all adapters that were added."""
        return list(self._adapters.entries)

    def load_peft_adapter(self, adapter_qualified_name: str) -> None:
        """Load an added adapter's weights, if :meth:`unload_peft_adapter` took them out.

        Raises:
            AdapterNotFoundError: It was not added.
        """
        self._adapters.load(adapter_qualified_name)

    def unload_peft_adapter(self, adapter_qualified_name: str) -> None:
        """Let an adapter's weights go; requests under way keep them. Nothing happens if they are not loaded.

        Args:
            adapter_qualified_name: As :meth:`list_adapters` gives it.
        """
        self._adapters.unload(adapter_qualified_name)

    def remove_adapter(self, adapter_qualified_name: str) -> None:
        """Forget an adapter, so that its name is free.

        Args:
            adapter_qualified_name: As :meth:`list_adapters` gives it.

        Raises:
            AdapterError: Its weights are still loaded.
        """
        self._adapters.remove(adapter_qualified_name)

    def activate_peft_adapter(self, adapter_qualified_name: str) -> None:
        """Nothing but a look whether the adapter is loaded: each request names its own adapter.

        Args:
            adapter_qualified_name: As :meth:`list_adapters` gives it.

        Raises:
            AdapterNotFoundError: It is not.
        """
        self._adapters.info(adapter_qualified_name)

    def deactivate_peft_adapter(self, adapter_qualified_name: str) -> None:
        """Nothing: no adapter is ever active for more than its own requests.

        Args:
            adapter_qualified_name: Accepted for Mellea's sake.
        """

    def _adapter_activation_lock(self) -> Any:
        return self._adapters.lock

    def _adapter_resolve_lock(self) -> Any:
        return self._resolve_lock
