"""Generate, validate, and try again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from alorakit.bindings.session.backend import EngineBackend
from alorakit.bindings.session.blocks import Message, ModelOutputThunk, as_message
from alorakit.bindings.session.context import Context
from alorakit.bindings.session.kinds import demand
from alorakit.bindings.session.options import Options
from alorakit.bindings.session.requirement import Requirement, ValidationResult
from alorakit.engine.errors import ConfigError, RequestError


@dataclass(frozen=True)
class SamplingResult:
    """Every attempt at an instruction, and the one chosen.

    Attributes:
        result_index: Index of the chosen attempt: the first that meets every requirement, else 0.
        success: Whether the chosen attempt meets every requirement.
        sample_generations: Output of each attempt.
        sample_validations: For each attempt, its requirements and their verdicts.
        sample_contexts: For each attempt, the context that ends with it.
    """

    result_index: int
    success: bool
    sample_generations: list[ModelOutputThunk]
    sample_validations: list[list[tuple[Requirement, ValidationResult]]]
    sample_contexts: list[Context]

    def __str__(self) -> str:
        return self.value

    @property
    def value(self) -> str:
        """Text of the chosen attempt."""
        return self.result.value

    @property
    def result(self) -> ModelOutputThunk:
        """Output of the chosen attempt."""
        return self.sample_generations[self.result_index]

    @property
    def result_ctx(self) -> Context:
        """The context that ends with the chosen attempt."""
        return self.sample_contexts[self.result_index]

    @property
    def result_validations(self) -> list[tuple[Requirement, ValidationResult]]:
        """The chosen attempt's requirements and verdicts."""
        return self.sample_validations[self.result_index]


class RejectionSamplingStrategy:
    """Repeat the same instruction until an attempt meets every requirement.

    The first attempt is greedy unless the model options say otherwise. Later ones must differ: with neither
    temperature nor seed set they use temperature 0.7 and the attempt's number as seed; with a seed set, that seed
    plus the attempt's number. If every attempt fails, the first is returned, as in Mellea.

    Args:
        loop_budget: How many attempts at most.

    Raises:
        ConfigError: ``loop_budget`` is no integer, or below 1.
    """

    def __init__(self, *, loop_budget: int = 1) -> None:
        demand("loop_budget", loop_budget, int, ConfigError)
        if loop_budget < 1:
            raise ConfigError(f"loop_budget={loop_budget} is below 1; allow at least one attempt")
        self.loop_budget = loop_budget

    def sample(
        self,
        action: Message,
        context: Context,
        backend: EngineBackend,
        requirements: Sequence[Requirement],
        *,
        model_options: Mapping[str, Any] | None = None,
    ) -> SamplingResult:
        """Run the loop.

        Args:
            action: The message to answer.
            context: What was said before.
            backend: Where to generate and to check.
            requirements: What each attempt must meet.
            model_options: Options for this call, over the backend's.

        Returns:
            All attempts made. The given context is unchanged.

        Raises:
            AlorakitError: Generation or a check cannot be done; see :class:`EngineBackend`.
        """
        for wanted in requirements:  # what cannot be checked is refused before anything is generated
            backend.ensure_checkable(wanted)
        generations: list[ModelOutputThunk] = []
        validations: list[list[tuple[Requirement, ValidationResult]]] = []
        contexts: list[Context] = []
        success = False
        while not success and len(generations) < self.loop_budget:
            output, grown = answer(action, context, backend, model_options, attempt=len(generations))
            verdicts = [(wanted, backend.validate(wanted, grown, grown.messages())) for wanted in requirements]
            success = all(verdict.as_bool() for _, verdict in verdicts)
            generations.append(output)
            validations.append(verdicts)
            contexts.append(grown)
        index = len(generations) - 1 if success else 0
        return SamplingResult(index, success, generations, validations, contexts)


def answer(
    action: Message,
    context: Context,
    backend: EngineBackend,
    model_options: Mapping[str, Any] | None,
    attempt: int = 0,
) -> tuple[ModelOutputThunk, Context]:
    """Generate once.

    Returns:
        The output, and the context grown by the action and the output.
    """
    options = Options.merge(backend.model_options, model_options)
    history = [as_message(item) for item in context.view_for_generation()]
    output = backend.generate(with_system([*history, action], options.system_prompt), options, attempt)
    return output, context.add(action).add(output)


def with_system(messages: Sequence[Message], system_prompt: str | None) -> list[Message]:
    """Put a system message first; None leaves the messages as they are.

    Raises:
        RequestError: They begin with another system message already.
    """
    if system_prompt is None:
        return list(messages)
    system = Message("system", system_prompt)
    if messages and messages[0].role == "system":
        if messages[0] != system:
            raise RequestError(
                f"the chat already begins with the system message {messages[0].content!r}; "
                "drop that message or the system prompt of the model options"
            )
        return list(messages)
    return [system, *messages]
