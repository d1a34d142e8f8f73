"""Mellea's plugin hook for adapter functions, fired without blocking: ``adapter_function_invocation_complete``."""

from collections.abc import Awaitable
from typing import Any, TypeVar

from mellea.core import MelleaLogger
from mellea.plugins.manager import has_plugins, invoke_hook
from mellea.plugins.types import HookType

from alorakit.engine.errors import CheckError

T = TypeVar("T")


async def reported(adapter: Any, answer: Awaitable[T]) -> T:
    """Await an adapter function's answer, and tell the plugins how it went.

    As in Mellea, a plugin that fails changes nothing, and an answer that is not what ``io.yaml`` asks for is a
    ``schema_error``.

    Args:
        adapter: Mellea's adapter.
        answer: What to await.
    """
    try:
        result = await answer
    except Exception as exc:
        await _fire(adapter, "schema_error" if isinstance(exc, CheckError) else "error", exc)
        raise
    await _fire(adapter, "success", None)
    return result


async def _fire(adapter: Any, outcome: Any, error: BaseException | None) -> None:
    if not has_plugins(HookType.ADAPTER_FUNCTION_INVOCATION_COMPLETE):
        return
    from mellea.plugins.hooks.adapter_function import AdapterFunctionInvocationCompletePayload

    metadata = getattr(adapter, "intrinsic_metadata", None)
    try:
        payload = AdapterFunctionInvocationCompletePayload(
            name=adapter.identity.name,
            revision=metadata.revision if metadata is not None else adapter.weights.revision,
            binding_type="local_file",
            adapter_type=adapter.identity.adapter_type,
            outcome=outcome,
            error=error,
        )
        await invoke_hook(HookType.ADAPTER_FUNCTION_INVOCATION_COMPLETE, payload)
    except Exception:
        name = getattr(getattr(adapter, "identity", None), "name", adapter)  # None: it was removed meanwhile
        MelleaLogger.get_logger().warning("a plugin failed on %s; ignored", name, exc_info=True)
