"""MelleaSession: a backend, a context, and the three verbs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import NoneType
from typing import Any, Literal, overload

from alorakit.bindings.session.backend import EngineBackend
from alorakit.bindings.session.blocks import CBlock, Message, ModelOutputThunk
from alorakit.bindings.session.context import Context, SimpleContext
from alorakit.bindings.session.kinds import demand, demand_text, listed
from alorakit.bindings.session.options import Options
from alorakit.bindings.session.prompt import fill, instruction
from alorakit.bindings.session.requirement import Requirement, ValidationResult, reqify
from alorakit.bindings.session.sampling import RejectionSamplingStrategy, SamplingResult, answer, with_system
from alorakit.bindings.session.target import target
from alorakit.engine.errors import ConfigError


class MelleaSession:
    """Talk to a model and check what it says.

    Args:
        backend: Where to generate and to check.
        ctx: What was said so far; None: an empty :class:`SimpleContext`, whose turns do not see each other.

    Attributes:
        backend: The backend.
        ctx: The context, replaced by each call that generates.
    """

    def __init__(self, backend: EngineBackend, ctx: Context | None = None) -> None:
        demand("backend", backend, EngineBackend, ConfigError)
        demand("ctx", ctx, (Context, NoneType), ConfigError)
        self.backend = backend
        self.ctx: Context = ctx if ctx is not None else SimpleContext()

    @overload
    def instruct(
        self,
        description: str,
        *,
        requirements: Sequence[Requirement | str] | None = None,
        icl_examples: Sequence[str | CBlock] | None = None,
        grounding_context: Mapping[str, str | CBlock] | None = None,
        user_variables: Mapping[str, str] | None = None,
        prefix: str | CBlock | None = None,
        strategy: RejectionSamplingStrategy | None = ...,
        return_sampling_results: Literal[False] = False,
        model_options: Mapping[str, Any] | None = None,
    ) -> ModelOutputThunk: ...

    @overload
    def instruct(
        self,
        description: str,
        *,
        requirements: Sequence[Requirement | str] | None = None,
        icl_examples: Sequence[str | CBlock] | None = None,
        grounding_context: Mapping[str, str | CBlock] | None = None,
        user_variables: Mapping[str, str] | None = None,
        prefix: str | CBlock | None = None,
        strategy: RejectionSamplingStrategy | None = ...,
        return_sampling_results: Literal[True],
        model_options: Mapping[str, Any] | None = None,
    ) -> SamplingResult: ...

    def instruct(
        self,
        description: str,
        *,
        requirements: Sequence[Requirement | str] | None = None,
        icl_examples: Sequence[str | CBlock] | None = None,
        grounding_context: Mapping[str, str | CBlock] | None = None,
        user_variables: Mapping[str, str] | None = None,
        prefix: str | CBlock | None = None,
        strategy: RejectionSamplingStrategy | None = RejectionSamplingStrategy(loop_budget=2),  # noqa: B008
        return_sampling_results: bool = False,
        model_options: Mapping[str, Any] | None = None,
    ) -> ModelOutputThunk | SamplingResult:
        """Give an instruction, check the answer, and try again if it fails. Both join the context.

        Args:
            description: The instruction.
            requirements: What the answer must meet; listed in the prompt unless ``check_only``.
            icl_examples: Examples listed in the prompt.
            grounding_context: Named texts put in the prompt.
            user_variables: Values for ``{{name}}`` placeholders in all of the texts; None: they are taken as they are.
            prefix: Text put before the description.
            strategy: How often to try; None: generate once and check nothing.
            return_sampling_results: Return every attempt instead of the chosen output.
            model_options: Options for this call, over the backend's.

        Returns:
            The output (``str()`` gives its text), or all attempts.

        Raises:
            ConfigError: ``return_sampling_results`` without a strategy, or unknown model options.
            RequestError: No description, an argument of the wrong kind, a placeholder without a value, or a prompt too
                long.
            CheckError: A requirement that cannot be checked.
        """
        demand_text("the description", description)
        demand("grounding_context", grounding_context, (Mapping, NoneType))
        wanted = [reqify(item) for item in listed("requirements", requirements, (str, Requirement))]
        wanted = [replace(item, description=_filled(item.description, user_variables)) for item in wanted]
        text = instruction(
            fill(description, user_variables),
            [item.description for item in wanted if item.description and not item.check_only],
            [fill(str(example), user_variables) for example in listed("icl_examples", icl_examples, (str, CBlock))],
            {name: fill(str(given), user_variables) for name, given in (grounding_context or {}).items()},
            None if prefix is None else fill(str(prefix), user_variables),
        )
        action = Message("user", text)
        if strategy is None:
            if return_sampling_results:
                raise ConfigError("return_sampling_results=True needs a strategy; give one, or leave it out")
            output, self.ctx = answer(action, self.ctx, self.backend, model_options)
            return output
        result = strategy.sample(action, self.ctx, self.backend, wanted, model_options=model_options)
        self.ctx = result.result_ctx
        return result if return_sampling_results else result.result

    def chat(
        self,
        content: str,
        role: str = "user",
        *,
        user_variables: Mapping[str, str] | None = None,
        model_options: Mapping[str, Any] | None = None,
    ) -> Message:
        """Say something and get the answer. Both join the context.

        Args:
            content: The text.
            role: Who says it.
            user_variables: Values for ``{{name}}`` placeholders; None: the text is taken as it is.
            model_options: Options for this call, over the backend's.

        Returns:
            The assistant's message, with the ids it was generated as.

        Raises:
            AlorakitError: A placeholder without a value, a prompt too long, or unknown model options.
        """
        demand_text("the content", content)
        action = Message(role, fill(content, user_variables))
        output, self.ctx = answer(action, self.ctx, self.backend, model_options)
        return output.as_message()

    def validate(
        self,
        reqs: Requirement | str | Sequence[Requirement | str],
        *,
        output: str | CBlock | ModelOutputThunk | None = None,
        model_options: Mapping[str, Any] | None = None,
        input: str | CBlock | ModelOutputThunk | None = None,
    ) -> list[ValidationResult]:
        """Check requirements on the chat so far, or on a given output.

        Args:
            reqs: One requirement or several.
            output: What to check instead of the chat so far. A text alone is checked as the one user message that a
                training row's ``item`` is; a generated output, after the messages it answered.
            model_options: Options for this call. A check samples nothing: only the system prompt applies.
            input: What ``output`` answers, if it is not known from ``output`` itself.

        Returns:
            One verdict for each requirement, in order.

        Raises:
            CheckError: A requirement that cannot be checked.
            ConfigError: Options other than the system prompt.
            RequestError: ``input`` without ``output``, or nothing to check.
        """
        given = Options.merge(model_options)
        if given.sampling:
            raise ConfigError(
                f"{sorted(given.sampling)} do not apply to a check, which samples nothing; leave them out"
            )
        demand("reqs", reqs, (str, Requirement, Iterable))
        wanted = [reqify(item) for item in listed("reqs", reqs, (str, Requirement))]
        context, messages = target(self.ctx, output, input)
        system = given.system_prompt
        if output is None and system is None and messages[0].role != "system":
            system = Options.merge(self.backend.model_options).system_prompt
        messages = with_system(messages, system)
        return [self.backend.validate(item, context, messages) for item in wanted]

    def reset(self) -> None:
        """Forget what was said; the context keeps its settings."""
        self.ctx = self.ctx.new_instance()

    def clone(self) -> "MelleaSession":
        """A session of its own from here on, with the same backend and past."""
        return MelleaSession(self.backend, self.ctx)

    def last_prompt(self) -> list[dict[str, str]] | None:
        """The messages that the last output answered, as role and content; None if nothing was generated."""
        output = self.ctx.last_output()
        if output is None or output.prompt is None:
            return None
        return [{"role": message.role, "content": message.content} for message in output.prompt]


def _filled(text: str | None, user_variables: Mapping[str, str] | None) -> str | None:
    return None if text is None else fill(text, user_variables)
