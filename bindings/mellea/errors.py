"""Errors that are also of the kind Mellea's own backends raise, so that programs which catch those go on working."""

from alorakit.engine.errors import AdapterNotFoundError, RequestError


class NoAdapterError(AdapterNotFoundError, ValueError):
    """No adapter is registered for an adapter function."""


class StreamingUnsupportedError(RequestError, NotImplementedError):
    """What cannot be streamed, since its answer is read as a whole, was asked for with ``ModelOption.STREAM``."""
