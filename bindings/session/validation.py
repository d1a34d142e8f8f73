"""What checking a requirement gives."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from alorakit.bindings.session.context import Context
from alorakit.bindings.session.thunk import ModelOutputThunk

if TYPE_CHECKING:
    from alorakit.engine.request import Usage


@dataclass(frozen=True)
class ValidationResult:
    """The verdict on one requirement; its truth value is the verdict.

    Attributes:
        result: Whether the requirement is met.
        reason: Why, in words; None if the check gave none. A repeated instruction quotes it.
        score: Probability that it is met, 0 to 1; None if the check gave none.
        thunk: What the judge wrote; None where no judge was asked.
        context: The chat that ends with it.
        error: Why the judge's answer could not be read; then the requirement counts as not met.
        label: The most probable label of the adapter, or what its text says; None for the judge, for a
            ``validation_fn``, and for a text that says nothing.
        probabilities: Probability of each label, summing to 1; empty where there are none.
        usage: Token counts of the check (how many came from the cache); None for a ``validation_fn``.
    """

    result: bool
    reason: str | None = field(default=None, kw_only=True)
    score: float | None = field(default=None, kw_only=True)
    thunk: ModelOutputThunk[Any] | None = field(default=None, kw_only=True)
    context: Context | None = field(default=None, kw_only=True)
    error: Exception | None = field(default=None, kw_only=True)
    label: str | None = field(default=None, kw_only=True)
    probabilities: dict[str, float] = field(default_factory=dict, kw_only=True)
    usage: "Usage | None" = field(default=None, kw_only=True)

    def as_bool(self) -> bool:
        """Whether the requirement is met."""
        return self.error is None and self.result

    def __bool__(self) -> bool:
        return self.as_bool()
