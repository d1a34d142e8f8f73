"""The adapter a session loads: a local folder or a Hub repository."""

import re
from dataclasses import dataclass
from pathlib import Path
from types import NoneType

from alorakit.bindings.paths import existing
from alorakit.bindings.session.kinds import demand
from alorakit.engine.errors import AdapterError, ModelNotFoundError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FILES = ("adapter_config.json", "adapter_model.safetensors")


@dataclass(frozen=True, kw_only=True)
class CustomIntrinsicAdapter:
    """An adapter trained by ``m alora train`` or by PEFT.

    Attributes:
        model_id: An adapter folder, or a Hub id ``user/repository``.
        intrinsic_name: Name of the adapter in the session; None: the last part of ``model_id``.
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
        return self.intrinsic_name or Path(self.model_id).name or Path(self.model_id).resolve().name

    def folder(self) -> Path:
        """The adapter's folder, fetched from the Hub (or its cache) if ``model_id`` is not a folder.

        Raises:
            AdapterError: There is no such folder, and it cannot be fetched.
        """
        local = existing(self.model_id)
        if local is not None and local.is_dir():
            return local
        if local is not None or not _HUB_ID.fullmatch(str(self.model_id)):
            raise AdapterError(f"adapter {str(self.model_id)!r} is not a folder; give the folder that training wrote")
        return _fetch(str(self.model_id))


def _fetch(repo_id: str) -> Path:
    from alorakit.engine.hub import hub_folder  # the Hub's client only where it is needed

    try:
        return hub_folder(repo_id, required=_FILES)
    except ModelNotFoundError as exc:
        raise AdapterError(
            f"adapter {repo_id!r} is not a folder and is not available from the Hub ({exc}); "
            "give the folder that training wrote, or check the id and the network"
        ) from exc
