"""What a caller's values are turned into, or refused for: plain numbers, tuples, grammars as text."""

import json
from numbers import Integral, Real
from typing import Any

from alorakit.engine.errors import RequestError, shown

MAX_STRUCTURED_CHARS = 1 << 18


def as_integer(name: str, value: object, low: int, high: int | None) -> int:
    """``value`` as an int; numpy's integers are integers, bools are not.

    Raises:
        RequestError: No integer from ``low`` to ``high``.
    """
    number = isinstance(value, Integral) and not isinstance(value, bool)
    if not number or int(value) < low or (high is not None and int(value) > high):  # type: ignore[call-overload]
        limit = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise RequestError(f"{name}={shown(value)} must be an integer {limit}")
    return int(value)  # type: ignore[call-overload, no-any-return]


def as_float(name: str, value: object, low: float, high: float) -> float:
    """``value`` as a float; numpy's numbers are numbers, bools are not.

    Raises:
        RequestError: No number from ``low`` to ``high`` (NaN is none).
    """
    number: Any = value if isinstance(value, Real) and not isinstance(value, bool) else None
    if number is not None and low <= number <= high:
        return float(number)
    raise RequestError(f"{name}={shown(value)} must be a number from {low} to {high}")


def as_bool(name: str, value: object) -> bool:
    """``value`` as a bool, numpy's included.

    Raises:
        RequestError: No bool.
    """
    import numpy as np  # here, because the command line reads defaults from this layer and must be quick

    if not isinstance(value, bool | np.bool_):
        raise RequestError(f"{name}={shown(value)} must be True or False")
    return bool(value)


def as_tuple(name: str, value: object) -> tuple[Any, ...]:
    """The items of a list, tuple or set; none for None.

    Raises:
        RequestError: Something else.
    """
    if value is None:
        return ()
    if isinstance(value, list | tuple | set | frozenset):
        return tuple(value)
    raise RequestError(f"{name}={shown(value)} must be a list")


def as_texts(name: str, value: object, max_items: int, max_chars: int) -> tuple[str, ...]:
    """A list of non-empty texts.

    Raises:
        RequestError: Something else, or more or longer ones than ``max_items`` and ``max_chars``.
    """
    texts = as_tuple(name, value)
    if len(texts) > max_items or any(not isinstance(s, str) or not 0 < len(s) <= max_chars for s in texts):
        raise RequestError(
            f"{name}={shown(value)} must be at most {max_items} non-empty texts of at most {max_chars} characters"
        )
    return texts


def as_structured(value: Any) -> dict[str, Any] | str | tuple[str, ...] | None:
    """A JSON schema (a copy of it), a regular expression, or choices.

    Raises:
        RequestError: None of these, empty, or longer than MAX_STRUCTURED_CHARS as text.
    """
    if value is None:
        return None
    what = f"structured={shown(value)}"
    if isinstance(value, list | tuple):
        value = tuple(value)
        if not value or any(not isinstance(choice, str) or not choice for choice in value):
            raise RequestError(f"{what} must have at least one choice, and only non-empty texts")
    elif isinstance(value, dict):
        try:
            value = json.loads(json.dumps(value, allow_nan=False))
        except (TypeError, ValueError, RecursionError) as exc:
            raise RequestError(f"{what} must be a JSON schema, but is no JSON: {exc}") from exc
    elif not isinstance(value, str) or not value:
        raise RequestError(
            f"{what} must be a JSON schema (dict), a regular expression (non-empty str) or choices (list of str)"
        )
    source = grammar_source(value)[1]
    try:
        source.encode()
    except UnicodeEncodeError as exc:
        raise RequestError(f"{what} is not valid Unicode text: lone surrogate at character {exc.start}") from exc
    size = len(source)
    if size > MAX_STRUCTURED_CHARS:
        raise RequestError(f"{what} has {size} characters, but a grammar has at most {MAX_STRUCTURED_CHARS}; split it")
    return value  # type: ignore[no-any-return]


def grammar_source(value: dict[str, Any] | str | tuple[str, ...] | list[str]) -> tuple[str, str]:
    """The kind of a grammar (``"json"``, ``"regex"`` or ``"choice"``) and its text, which say all there is to it."""
    if isinstance(value, str):
        return "regex", value
    # The order of a schema's properties is the order they are generated in, so keys are not sorted.
    return "json" if isinstance(value, dict) else "choice", json.dumps(value)
