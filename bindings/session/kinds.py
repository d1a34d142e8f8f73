"""Arguments of the wrong kind, caught where they are given rather than deep inside."""

from collections.abc import Iterable
from typing import Any

from alorakit.engine.errors import AlorakitError, RequestError

Kinds = type | tuple[type, ...]


def demand(name: str, value: object, kinds: Kinds, error: type[AlorakitError] = RequestError) -> None:
    """See that an argument is of one of some kinds.

    Args:
        name: Name of the argument, for the message.
        value: What was given.
        kinds: What it may be; ``type(None)`` where None is allowed.
        error: What to raise.
    """
    allowed = kinds if isinstance(kinds, tuple) else (kinds,)
    if not isinstance(value, allowed):
        wanted = " or ".join("None" if kind is type(None) else kind.__name__ for kind in allowed)
        raise error(f"{name} must be {wanted}, found {type(value).__name__}: {value!r:.80}")


def demand_text(name: str, value: object) -> None:
    """See that an argument is a string with something in it.

    Raises:
        RequestError: It is not.
    """
    demand(name, value, str)
    if not str(value).strip():
        raise RequestError(f"{name} is empty; give some text")


def listed(name: str, value: Any, kinds: Kinds) -> list[Any]:
    """The items of an argument that holds several; None holds none, and one of ``kinds`` counts as a list of one.

    Raises:
        RequestError: It is no list.
    """
    if value is None:
        return []
    if isinstance(value, kinds):
        return [value]
    demand(name, value, Iterable)
    return list(value)


def refuse(what: str, **given: object) -> None:
    """See that arguments which exist for Mellea's sake are left alone (None, False or empty).

    Args:
        what: Whose arguments they are, for the message.
        given: The arguments by name.

    Raises:
        RequestError: One of them is given.
    """
    for name, value in given.items():
        if value is not None and value is not False and value != [] and value != ():
            raise RequestError(f"{what}({name}={value!r:.80}) is not supported by this backend; leave {name} out")
