"""The adapter a session loads: a local folder or a Hub repository."""

from dataclasses import dataclass
from pathlib import Path
from types import NoneType

from alorakit.bindings.adapter_names import adapter_name
from alorakit.bindings.session.kinds import demand
from alorakit.engine.errors import AdapterError
from alorakit.engine.pretrained import resolve_adapter


@dataclass(frozen=True, kw_only=True)
class CustomIntrinsicAdapter:
    """An adapter trained by ``m alora train`` or by PEFT.

    Attributes:
        model_id: An adapter folder, or a Hub name: ``user/repository``, with ``@revision`` and, in a collection, the
            adapter's folder: ``user/repository/requirement-check/SmolLM2-135M-Instruct/alora@v1``.
        intrinsic_name: Name of the adapter in the session; None: the last part of ``model_id``, without the revision;
            in a collection the intrinsic.
        base_model_name: Short name of the base model, for instance ``SmolLM2-135M-Instruct``.

    Raises:
        AdapterError: A field is of the wrong kind.
    """

    model_id: str | Path
    intrinsic_name: str | None = None
    base_model_name: str

    def __post_init__(self) -> None:
        demand("model_id", self.model_id, (str, Path), AdapterError)
        demand("intrinsic_name", self.intrinsic_name, (str, NoneType), AdapterError)
        demand("base_model_name", self.base_model_name, str, AdapterError)

    @property
    def name(self) -> str:
        """The name under which the engine knows the adapter."""
        return self.intrinsic_name or adapter_name(self.model_id)

    def folder(self) -> Path:
        """The adapter's folder, fetched from the Hub (or its cache) if ``model_id`` is not a folder.

        Raises:
            AdapterError: There is no such folder, and it cannot be fetched.
        """
        return resolve_adapter(self.model_id)
