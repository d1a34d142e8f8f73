"""Several requirements on one output, their models asked in one batch."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from alorakit.bindings.checks.question import question
from alorakit.bindings.session.blocks import Message, computed
from alorakit.bindings.session.component import Component, text_of
from alorakit.bindings.session.context import Context
from alorakit.bindings.session.kinds import demand
from alorakit.bindings.session.options import Options
from alorakit.bindings.session.prompt import judge_question
from alorakit.bindings.session.requirement import Requirement, default_output_to_bool
from alorakit.bindings.session.thunk import ModelOutputThunk
from alorakit.bindings.session.validation import ValidationResult
from alorakit.engine.errors import CheckError, ClosedError

if TYPE_CHECKING:
    from alorakit.bindings.session.backend import EngineBackend
    from alorakit.engine.adapters import AdapterInfo
    from alorakit.engine.mixed import Answer, Request

Asked = tuple["Request", Callable[["Answer"], ValidationResult]]


async def check_all(
    backend: "EngineBackend",
    requirements: Sequence[Requirement],
    context: Context,
    messages: Sequence[Message] | None,
    format: type[Any] | None,
    model_options: Mapping[str, Any] | None,
) -> list[ValidationResult]:
    """What :meth:`EngineBackend.check` does."""
    running = backend.running()
    await computed(context.as_list(3))
    await computed(context.view_for_generation())
    checker = Checker(backend, context, messages, format, model_options)
    asked: dict[int, Asked] = {}
    verdicts: dict[int, ValidationResult] = {}
    for at, requirement in enumerate(requirements):  # what cannot be asked is refused before anything runs
        if not requirement.decides_alone:
            asked[at] = checker.ask(requirement)
    for at, requirement in enumerate(requirements):
        if requirement.decides_alone:
            verdicts[at] = await _decided(requirement, backend, context, format, model_options)
    answers = await running.batch([request for request, _ in asked.values()]) if asked else []
    for (at, (_, read)), answer in zip(asked.items(), answers, strict=True):
        if getattr(answer, "finish_reason", None) == "abort":
            raise ClosedError("the backend was closed while it checked; make another EngineBackend and ask again")
        verdicts[at] = read(answer)
    return [verdicts[at] for at in range(len(requirements))]


class Checker:
    """Makes a request of each requirement on one output."""

    def __init__(
        self,
        backend: "EngineBackend",
        context: Context,
        messages: Sequence[Message] | None,
        format: type[Any] | None,
        model_options: Mapping[str, Any] | None,
    ) -> None:
        """See :meth:`EngineBackend.check`."""
        self._backend, self._context, self._given, self._format = backend, context, messages, format
        self._own = Options.merge(model_options)
        self._options = Options.merge(backend.model_options, model_options)

    def ask(self, requirement: Requirement) -> Asked:
        """What to ask of whom, and how to read the answer.

        Raises:
            CheckError: It cannot be decided; see :meth:`EngineBackend.check`.
        """
        self._backend.ensure_checkable(requirement)
        info = self._backend.adapter_for(requirement)
        return self._ask_judge(requirement) if info is None else self._ask_adapter(requirement, info)

    def _ask_adapter(self, requirement: Requirement, info: "AdapterInfo") -> Asked:
        own = requirement.output_to_bool if requirement.output_to_bool is not default_output_to_bool else None
        tokenizer, chat = self._backend.engine.tokenizer, [message.as_dict() for message in self._messages()]
        asked = question(tokenizer, info, chat, requirement.description, decide=own is None)

        def read(answer: "Answer") -> ValidationResult:
            found = asked.verdict(answer)
            passed, error = _read(own, found.answer) if own else (bool(found.passed), None)
            return ValidationResult(
                passed,
                reason=found.reason,
                score=found.score,
                error=error,
                label=found.label,
                probabilities=found.probabilities,
                usage=found.usage,
            )

        return asked.request, read

    def _messages(self) -> list[Message]:
        """What adapters read. A system prompt is put first where there is none and the chat was not had without."""
        messages = list(self._context.messages() if self._given is None else self._given)
        if not messages:
            raise CheckError("there is nothing to validate; generate first, or pass output=...")
        last = self._context.node_data
        whole = self._given is not None or (isinstance(last, ModelOutputThunk) and last.prompt is not None)
        system = (self._own if whole else self._options).system_prompt
        if system is None or messages[0].role == "system":
            return messages
        return [Message("system", system), *messages]

    def _ask_judge(self, requirement: Requirement) -> Asked:
        from alorakit.engine.mixed import GenerateRequest

        output, decide = self._context.last_output(), requirement.output_to_bool
        assert requirement.description and decide, "ensure_checkable has seen to that"
        if output is None:
            raise CheckError(
                "there is nothing to validate: no model output to judge; generate first, or pass output=..."
            )
        meant = output.parsed_repr
        text = text_of(meant) if isinstance(meant, Component) else str(output)
        asked = Message("user", judge_question(requirement.description, text))
        prompt = (*self._backend.chat(self._context, self._options), asked)
        request = GenerateRequest(self._backend.render(prompt, self._options), self._options.params(0, self._format))

        def read(answer: "Answer") -> ValidationResult:
            assert not isinstance(answer, list)
            said = answer.text
            thunk = ModelOutputThunk(
                said, parsed_repr=said, token_ids=tuple(answer.token_ids), prompt=prompt, usage=answer.usage,
                finish_reason=answer.finish_reason, timing=answer.timing,
            )  # fmt: skip
            passed, error = _read(decide, thunk)
            bare = said.strip().lower() in ("yes", "no")  # says less than the requirement to who repairs the answer
            return ValidationResult(
                passed,
                reason=None if error else requirement.description if bare else said,
                thunk=thunk,
                context=self._context.add(asked).add(thunk),
                error=error,
                usage=answer.usage,
            )

        return request, read


def _read(decide: Callable[[Any], bool], answer: Any) -> tuple[bool, Exception | None]:
    """What an answer means; an error of the function's own means that it cannot be read."""
    try:
        passed = decide(answer)
    except Exception as exc:
        return False, exc
    demand("what an output_to_bool returns", passed, bool, CheckError)
    return passed, None


async def _decided(
    requirement: Requirement,
    backend: "EngineBackend",
    context: Context,
    format: type[Any] | None,
    model_options: Mapping[str, Any] | None,
) -> ValidationResult:
    """The verdict of a requirement that has a function, or a way of its own."""
    if requirement.validation_fn is None or type(requirement).validate is not Requirement.validate:
        return await requirement.validate(backend, context, format=format, model_options=model_options)
    verdict = requirement.validation_fn(context)
    demand("what a validation_fn returns", verdict, (ValidationResult, bool), CheckError)
    return verdict if isinstance(verdict, ValidationResult) else ValidationResult(verdict)
