"""Requirements, and what checking one gives."""

from collections.abc import Callable
from dataclasses import dataclass, field
from types import NoneType
from typing import TYPE_CHECKING, Any

from alorakit.bindings.session.context import Context
from alorakit.bindings.session.kinds import demand
from alorakit.engine.errors import CheckError, RequestError

if TYPE_CHECKING:
    from alorakit.engine.request import Usage


@dataclass(frozen=True)
class ValidationResult:
    """The verdict on one requirement; its truth value is the verdict.

    Attributes:
        result: Whether the requirement is met.
        reason: Why, in words; None if the check gave none.
        score: Probability that it is met, 0 to 1; None if the check gave none.
        label: The most probable label of the adapter, what its text says, or the judge's word; None for a
            ``validation_fn``, and for a text that says nothing.
        probabilities: Probability of each label, summing to 1; empty for a text and for a ``validation_fn``.
        usage: Token counts of the check (how many came from the cache); None for a ``validation_fn``.
    """

    result: bool
    reason: str | None = field(default=None, kw_only=True)
    score: float | None = field(default=None, kw_only=True)
    label: str | None = field(default=None, kw_only=True)
    probabilities: dict[str, float] = field(default_factory=dict, kw_only=True)
    usage: "Usage | None" = field(default=None, kw_only=True)

    def as_bool(self) -> bool:
        """Whether the requirement is met."""
        return self.result

    def __bool__(self) -> bool:
        return self.result


ValidationFn = Callable[[Context], ValidationResult | bool]


@dataclass(frozen=True)
class Requirement:
    """Something an answer must meet.

    Attributes:
        description: The requirement in words.
        validation_fn: Decides instead of a model: takes the context, returns a :class:`ValidationResult` or a bool.
        check_only: Check it, but do not tell the model about it in an instruction.
        adapter: Name of the adapter that checks it; None: see ``checks.choose_adapter``.

    Raises:
        RequestError: A field is of the wrong kind.
    """

    description: str | None = None
    validation_fn: ValidationFn | None = None
    check_only: bool = field(default=False, kw_only=True)
    adapter: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        demand("a requirement's description", self.description, (str, NoneType))
        demand("validation_fn", self.validation_fn, (Callable, NoneType))  # type: ignore[arg-type]
        demand("a requirement's adapter", self.adapter, (str, NoneType))


def req(
    description: str | None = None,
    validation_fn: ValidationFn | None = None,
    *,
    check_only: bool = False,
    adapter: str | None = None,
) -> Requirement:
    """Shorthand for :class:`Requirement`."""
    return Requirement(description, validation_fn, check_only=check_only, adapter=adapter)


def check(
    description: str | None = None, validation_fn: ValidationFn | None = None, *, adapter: str | None = None
) -> Requirement:
    """Shorthand for a :class:`Requirement` with ``check_only=True``."""
    return Requirement(description, validation_fn, check_only=True, adapter=adapter)


def reqify(r: "str | Requirement") -> Requirement:
    """Make a requirement of a string; a requirement is returned as it is.

    Raises:
        RequestError: ``r`` is neither.
    """
    if isinstance(r, str):
        return Requirement(r)
    if isinstance(r, Requirement):
        return r
    raise RequestError(f"a requirement is a string or a Requirement, found {r!r}; wrap it in req(...)")


def simple_validate(fn: Callable[[str], Any], *, reason: str | None = None) -> ValidationFn:
    """Make a ``validation_fn`` from a function of the last output's text.

    Args:
        fn: Takes the text; returns a bool, or a pair of bool and reason.
        reason: Reason to report where ``fn`` returns a bare bool.

    Returns:
        A function of the context. It raises CheckError if ``fn`` returns anything else, or if the context holds no
        model output.
    """

    def validate(ctx: Context) -> ValidationResult:
        output = ctx.last_output()
        if output is None:
            raise CheckError("no model output to validate; generate first, or pass validate(..., output=...)")
        match fn(output.value):
            case bool(passed):
                return ValidationResult(passed, reason=reason)
            case (bool(passed), str(why)):
                return ValidationResult(passed, reason=why)
            case other:
                name = getattr(fn, "__name__", repr(fn))
                raise CheckError(f"{name} returned {other!r}; return a bool, or a pair of bool and reason")

    return validate
