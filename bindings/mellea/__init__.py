"""A backend for the real Mellea (``pip install alorakit[mellea]``): its programs on this engine, one line changed.

``backend = MelleaBackend("HuggingFaceTB/SmolLM2-135M-Instruct")`` takes the place of ``LocalHFBackend(...)``.
"""

try:
    import mellea as _mellea  # noqa: F401
except ImportError as exc:
    raise ImportError(
        "alorakit.bindings.mellea needs Mellea, which is not installed; run: pip install 'alorakit[mellea]', or use "
        "alorakit.MelleaSession, which needs no further package"
    ) from exc

from alorakit.bindings.mellea.backend import MelleaBackend
from alorakit.bindings.mellea.local_folders import accept_local_folders

accept_local_folders()

__all__ = ["MelleaBackend"]
