"""Requirements: what an answer must meet, and who decides."""

import re
import warnings
from collections.abc import Callable, Mapping
from types import NoneType
from typing import TYPE_CHECKING, Any

from alorakit.bindings.session.blocks import CBlock
from alorakit.bindings.session.context import Context
from alorakit.bindings.session.kinds import demand, refuse
from alorakit.bindings.session.thunk import ModelOutputThunk
from alorakit.bindings.session.validation import ValidationResult
from alorakit.engine.errors import CheckError, RequestError

if TYPE_CHECKING:
    from alorakit.bindings.session.backend import EngineBackend

ValidationFn = Callable[[Context], ValidationResult | bool]
OutputToBool = Callable[[CBlock | ModelOutputThunk[Any] | str], bool]


def default_output_to_bool(x: CBlock | ModelOutputThunk[Any] | str) -> bool:
    """Whether an answer ``x`` is "y" or has the word "yes" in it, whatever their case."""
    words = [word.upper() for word in re.split(r"\W+", str(x))]
    return str(x).upper() == "Y" or "YES" in words


class Requirement:
    """Something an answer must meet.

    Args:
        description: The requirement in words.
        validation_fn: Decides instead of a model: takes the context, returns a :class:`ValidationResult` or a bool.
        output_to_bool: Decides what the judge's answer means. One of your own also reads an adapter's answer, instead
            of the rule for its labels.
        check_only: Check it, but do not tell the model about it in an instruction.
        chunking: None; what is checked is the whole output.
        adapter: Name of the adapter that checks it; None: see ``checks.choose_adapter``.

    Raises:
        RequestError: An argument is of the wrong kind.
    """

    def __init__(
        self,
        description: str | None = None,
        validation_fn: ValidationFn | None = None,
        *,
        output_to_bool: OutputToBool | None = default_output_to_bool,
        check_only: bool = False,
        chunking: None = None,
        adapter: str | None = None,
    ) -> None:
        demand("a requirement's description", description, (str, NoneType))
        demand("validation_fn", validation_fn, (Callable, NoneType))  # type: ignore[arg-type]
        demand("output_to_bool", output_to_bool, (Callable, NoneType))  # type: ignore[arg-type]
        demand("a requirement's adapter", adapter, (str, NoneType))
        refuse("Requirement", chunking=chunking)
        self.description, self.validation_fn = description, validation_fn
        self.output_to_bool, self.check_only = output_to_bool, check_only
        self.chunking, self.adapter = chunking, adapter

    def __repr__(self) -> str:
        return f"Requirement({self.description!r})"

    @property
    def decides_alone(self) -> bool:
        """Whether it needs no model: it has a function, or its class has a ``validate`` of its own."""
        return self.validation_fn is not None or type(self).validate is not Requirement.validate

    async def validate(
        self,
        backend: "EngineBackend",
        ctx: Context,
        *,
        format: type[Any] | None = None,
        model_options: Mapping[str, Any] | None = None,
    ) -> ValidationResult:
        """Check the last output of a context. A subclass may decide in its own way.

        Args:
            backend: Who checks, unless there is a ``validation_fn``.
            ctx: What was said.
            format: Pydantic model that the judge's answer must fit.
            model_options: Options for the judge, over the backend's.

        Raises:
            CheckError: It cannot be decided; see :meth:`EngineBackend.ensure_checkable`.
        """
        [verdict] = await backend.check([self], ctx, format=format, model_options=model_options)
        return verdict


def req(
    description: str | None = None,
    validation_fn: ValidationFn | None = None,
    *,
    output_to_bool: OutputToBool | None = default_output_to_bool,
    check_only: bool = False,
    chunking: None = None,
    adapter: str | None = None,
) -> Requirement:
    """Shorthand for :class:`Requirement`."""
    return Requirement(
        description,
        validation_fn,
        output_to_bool=output_to_bool,
        check_only=check_only,
        chunking=chunking,
        adapter=adapter,
    )


def check(
    description: str | None = None,
    validation_fn: ValidationFn | None = None,
    *,
    output_to_bool: OutputToBool | None = default_output_to_bool,
    chunking: None = None,
    adapter: str | None = None,
) -> Requirement:
    """Shorthand for a :class:`Requirement` with ``check_only=True``."""
    return req(
        description, validation_fn, output_to_bool=output_to_bool, check_only=True, chunking=chunking, adapter=adapter
    )


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


def simple_validate(fn: Callable[[str], Any], *, reason: str | None = None) -> Callable[[Context], ValidationResult]:
    """Make a ``validation_fn`` from a function of the last output's text.

    Args:
        fn: Takes the text; returns a bool, or a pair of bool and reason.
        reason: Reason to report where ``fn`` returns a bare bool.

    Returns:
        A function of the context. Where that holds no output it warns, and the requirement is not met. It raises
        CheckError if ``fn`` returns anything else.
    """

    def validate(ctx: Context) -> ValidationResult:
        output = ctx.last_output()
        if output is None or output.value is None:
            warnings.warn("no model output to validate: the requirement counts as not met", stacklevel=2)
            return ValidationResult(False)
        match fn(output.value):
            case bool(passed):
                return ValidationResult(passed, reason=reason)
            case (bool(passed), str(why)):
                return ValidationResult(passed, reason=why)
            case other:
                name = getattr(fn, "__name__", repr(fn))
                raise CheckError(f"{name} returned {other!r}; return a bool, or a pair of bool and reason")

    return validate
