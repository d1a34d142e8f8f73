"""What came of trying."""

from collections.abc import Sequence
from typing import Any

from alorakit.bindings.checks.watch import PartialCheck
from alorakit.bindings.session.blocks import CBlock, Span
from alorakit.bindings.session.context import Context
from alorakit.bindings.session.requirement import Requirement
from alorakit.bindings.session.thunk import ModelOutputThunk
from alorakit.bindings.session.validation import ValidationResult
from alorakit.engine.errors import ConfigError

Verdicts = list[tuple[Requirement, ValidationResult]]


class SamplingResult(CBlock):
    """Every attempt at an action, and the one chosen; its text is the chosen one's.

    Attributes:
        result_index: Index of the chosen attempt: the first that meets every requirement, else what the strategy says.
        success: Whether the chosen attempt meets every requirement.
        sample_generations: Output of each attempt.
        sample_validations: For each attempt, its requirements and their verdicts.
        sample_actions: What each attempt answered.
        sample_contexts: For each attempt, the context that ends with it.

    Raises:
        ConfigError: There is no attempt of that index.
    """

    def __init__(
        self,
        result_index: int,
        success: bool,
        *,
        sample_generations: list[ModelOutputThunk[Any]] | None = None,
        sample_validations: list[Verdicts] | None = None,
        sample_actions: Sequence[Span] | None = None,
        sample_contexts: list[Context] | None = None,
    ) -> None:
        generations = sample_generations or []
        if not -len(generations) <= result_index < len(generations):
            raise ConfigError(f"result_index={result_index} is out of range: there are {len(generations)} attempts")
        super().__init__(generations[result_index].value)
        self.result_index, self.success = result_index, success
        self.sample_generations, self.sample_validations = generations, sample_validations or []
        self.sample_actions, self.sample_contexts = list(sample_actions or []), sample_contexts or []

    @property
    def result(self) -> ModelOutputThunk[Any]:
        """Output of the chosen attempt."""
        return self.sample_generations[self.result_index]

    @property
    def checks(self) -> list[PartialCheck]:
        """Checks made of the chosen attempt while it was written; of another one: ``sample_generations[i].checks``."""
        return self.result.checks

    @property
    def result_ctx(self) -> Context:
        """The context that ends with the chosen attempt."""
        return self.sample_contexts[self.result_index]

    @property
    def result_action(self) -> Span:
        """What the chosen attempt answered."""
        return self.sample_actions[self.result_index]

    @property
    def result_validations(self) -> Verdicts:
        """The chosen attempt's requirements and verdicts."""
        return self.sample_validations[self.result_index]
