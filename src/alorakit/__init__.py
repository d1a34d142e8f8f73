"""alorakit: an inference engine and trainer for activated LoRA.

Names are imported on first use, so that ``import alorakit`` costs nothing and pulls in no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alorakit.bindings.session import ChatContext, CustomIntrinsicAdapter, EngineBackend, MelleaSession, check, req
    from alorakit.engine.async_engine import AsyncEngine
    from alorakit.engine.config import EngineConfig
    from alorakit.engine.engine import Engine
    from alorakit.engine.errors import AlorakitError
    from alorakit.engine.request import SamplingParams

    __version__: str

__all__ = [
    "AlorakitError",
    "AsyncEngine",
    "ChatContext",
    "CustomIntrinsicAdapter",
    "Engine",
    "EngineBackend",
    "EngineConfig",
    "MelleaSession",
    "SamplingParams",
    "__version__",
    "check",
    "req",
]

_HOMES = {
    "AlorakitError": "alorakit.engine.errors",
    "AsyncEngine": "alorakit.engine.async_engine",
    "ChatContext": "alorakit.bindings.session",
    "CustomIntrinsicAdapter": "alorakit.bindings.session",
    "Engine": "alorakit.engine.engine",
    "EngineBackend": "alorakit.bindings.session",
    "EngineConfig": "alorakit.engine.config",
    "MelleaSession": "alorakit.bindings.session",
    "SamplingParams": "alorakit.engine.request",
    "check": "alorakit.bindings.session",
    "req": "alorakit.bindings.session",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # slow to import, and seldom asked for

        return version("alorakit")
    if name not in _HOMES:
        raise AttributeError(f"module 'alorakit' has no attribute {name!r}; public names are {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
