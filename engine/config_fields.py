"""Typed values out of a parsed ``config.json``: what has the wrong type or size is refused by name."""

from collections.abc import Mapping
from typing import Any

from alorakit.engine.errors import UnsupportedModelError

# Far above (below) every real model, and so that no product of two sizes, and no quotient of two numbers, overflows.
MAX_SIZE = 2**24
_MIN_FLOAT, _MAX_FLOAT = 1e-30, 1e12
_REMEDY = "correct it or download the model again"


def bad_value(raw: Mapping[str, Any], key: str, wanted: str, file: str = "config.json") -> UnsupportedModelError:
    """The error that ``raw[key]`` is missing or not ``wanted``."""
    found = f"{key}={raw[key]!r:.80}" if key in raw else f"{key} is missing;"
    return UnsupportedModelError(f"{file}: {found} must be {wanted}; {_REMEDY}")


def read_int(
    raw: Mapping[str, Any],
    key: str,
    default: int | None = None,
    null: bool = False,
    low: int = 1,
    high: int = MAX_SIZE,
) -> int:
    """``raw[key]``, an integer.

    Args:
        raw: The object that holds it.
        key: Its name.
        default: What a missing key means; None: it may not be missing.
        null: Whether null means the default, too.
        low: Least value.
        high: Greatest value.

    Raises:
        UnsupportedModelError: It is anything else.
    """
    value = raw.get(key, default)
    value = default if value is None and null else value
    if type(value) is not int or not low <= value <= high:
        raise bad_value(raw, key, f"an integer from {low} to {high}")
    return value


def read_float(raw: Mapping[str, Any], key: str, default: float | None = None) -> float:
    """``raw[key]``, a number above 0; ``default`` is what a missing key means (None: it may not be missing)."""
    value = raw.get(key, default)
    if type(value) not in (int, float) or not _MIN_FLOAT <= value <= _MAX_FLOAT:
        raise bad_value(raw, key, f"a number from {_MIN_FLOAT:g} to {_MAX_FLOAT:g}")
    return float(value)


def read_bool(raw: Mapping[str, Any], key: str) -> bool:
    """``raw[key]``, true or false; missing and null mean false."""
    value = raw.get(key)
    if value is not None and not isinstance(value, bool):
        raise bad_value(raw, key, "true or false")
    return bool(value)


def read_object(raw: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """``raw[key]``, an object; missing and null mean an empty one."""
    value = raw.get(key)
    if value is not None and not isinstance(value, Mapping):
        raise bad_value(raw, key, "an object")
    return value or {}
