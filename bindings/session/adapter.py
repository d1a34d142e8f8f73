"""The adapter a session loads: a local folder or a Hub repository."""

import re
from dataclasses import dataclass
from pathlib import Path

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
    """

    model_id: str | Path
    intrinsic_name: str | None = None
    base_model_name: str

    @property
    def name(self) -> str:
        """The name under which the engine knows the adapter."""
        return self.intrinsic_name or Path(self.model_id).name

    def folder(self) -> Path:
        """The adapter's folder, fetched from the Hub (or its cache) if ``model_id`` is not a folder.

        Raises:
            AdapterError: There is no such folder, and it cannot be fetched.
        """
        local = Path(self.model_id).expanduser()
        if local.is_dir():
            return local
        if local.exists() or not _HUB_ID.fullmatch(str(self.model_id)):
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
