"""MelleaSession: a backend, a context, and the verbs."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, cast, overload

from alorakit.bindings.checks.watch import Every
from alorakit.bindings.session.async_session import TWO_TRIES, AsyncSession, Options, Reqs, Thunk, Verb
from alorakit.bindings.session.background import run
from alorakit.bindings.session.blocks import CBlock, Document, Message, Span
from alorakit.bindings.session.requirement import Requirement
from alorakit.bindings.session.results import SamplingResult
from alorakit.bindings.session.sampling import SamplingStrategy
from alorakit.bindings.session.target import Text
from alorakit.bindings.session.validation import ValidationResult


class MelleaSession(AsyncSession):
    """Talk to a model and check what it says; each verb has a twin to await (``ainstruct``, ``achat`` …).

    Sessions of one backend may be used from any number of threads and coroutines at once: what they ask shares batches.
    Used as a context manager, it is what :func:`get_session` returns inside; the backend stays open.

    Args:
        backend: Where to generate and to check.
        ctx: What was said so far; None: an empty :class:`SimpleContext`, whose turns do not see each other.
        session_id: What to call the session; None: a random name.
        allow_context_type_change: Whether a strategy may give the session a context of another kind.

    Attributes:
        backend: The backend.
        ctx: The context, replaced by each call that generates; a call that fails leaves it as it was.
        id: The session's name.
    """

    @overload
    def act(
        self, action: Span, *, requirements: list[Requirement] | None = None, strategy: SamplingStrategy | None = None,
        return_sampling_results: Literal[False] = False, format: type[Any] | None = None,
        model_options: Options | None = None, tool_calls: bool = False,
    ) -> Thunk: ...  # fmt: skip

    @overload
    def act(
        self, action: Span, *, requirements: list[Requirement] | None = None, strategy: SamplingStrategy | None = None,
        return_sampling_results: Literal[True], format: type[Any] | None = None,
        model_options: Options | None = None, tool_calls: bool = False,
    ) -> SamplingResult: ...  # fmt: skip

    def act(
        self,
        action: Span,
        *,
        requirements: list[Requirement] | None = None,
        strategy: SamplingStrategy | None = None,
        return_sampling_results: bool = False,
        format: type[Any] | None = None,
        model_options: Options | None = None,
        tool_calls: bool = False,
    ) -> Thunk | SamplingResult:
        """Have the model answer an action. Both join the context.

        Args:
            action: An instruction, a message, a component of your own, a block of text or an earlier output.
            requirements: What the answer must meet; they need a strategy.
            strategy: How often, and how, to try; None: generate once and check nothing.
            return_sampling_results: Return every attempt instead of the chosen output.
            format: Pydantic model whose JSON the answer must be; the value stays a text.
            model_options: Options for this call, over the backend's.
            tool_calls: False; this backend calls no tools.

        Returns:
            The output (``str()`` gives its text), or all attempts.

        Raises:
            ConfigError: Requirements or ``return_sampling_results`` without a strategy, or unknown model options.
            RequestError: An argument of the wrong kind or not supported, or a prompt too long.
            CheckError: A requirement that cannot be checked.
            ClosedError: The backend is closed.
        """
        return run(
            cast(Verb, self.aact)(
                action,
                requirements=requirements,
                strategy=strategy,
                return_sampling_results=return_sampling_results,
                format=format,
                model_options=model_options,
                tool_calls=tool_calls,
                await_result=True,
            )
        )

    @overload
    def instruct(
        self, description: str, *, images: None = None, audio: None = None, requirements: Reqs | None = None,
        icl_examples: Sequence[str | CBlock] | None = None, grounding_context: Mapping[str, str | Span] | None = None,
        user_variables: Mapping[str, str] | None = None, prefix: str | CBlock | None = None,
        output_prefix: str | CBlock | None = None, strategy: SamplingStrategy | None = ...,
        return_sampling_results: Literal[False] = False, format: type[Any] | None = None,
        model_options: Options | None = None, tool_calls: bool = False,
        check_every: Every | None = None,
    ) -> Thunk: ...  # fmt: skip

    @overload
    def instruct(
        self, description: str, *, images: None = None, audio: None = None, requirements: Reqs | None = None,
        icl_examples: Sequence[str | CBlock] | None = None, grounding_context: Mapping[str, str | Span] | None = None,
        user_variables: Mapping[str, str] | None = None, prefix: str | CBlock | None = None,
        output_prefix: str | CBlock | None = None, strategy: SamplingStrategy | None = ...,
        return_sampling_results: Literal[True], format: type[Any] | None = None,
        model_options: Options | None = None, tool_calls: bool = False,
        check_every: Every | None = None,
    ) -> SamplingResult: ...  # fmt: skip

    def instruct(
        self,
        description: str,
        *,
        images: None = None,
        audio: None = None,
        requirements: Reqs | None = None,
        icl_examples: Sequence[str | CBlock] | None = None,
        grounding_context: Mapping[str, str | Span] | None = None,
        user_variables: Mapping[str, str] | None = None,
        prefix: str | CBlock | None = None,
        output_prefix: str | CBlock | None = None,
        strategy: SamplingStrategy | None = TWO_TRIES,
        return_sampling_results: bool = False,
        format: type[Any] | None = None,
        model_options: Options | None = None,
        tool_calls: bool = False,
        check_every: Every | None = None,
    ) -> Thunk | SamplingResult:
        """Give an instruction, check the answer, and try again if it fails. Both join the context.

        Args:
            description: The instruction.
            images: None; not supported.
            audio: None; not supported.
            requirements: What the answer must meet; listed in the prompt unless ``check_only``.
            icl_examples: Examples listed in the prompt.
            grounding_context: Named texts put in the prompt.
            user_variables: Values for ``{{name}}`` placeholders in all of the texts; None: they are taken as they are.
            prefix: Text put before the description.
            output_prefix: Text put at the end, for the answer to go on from.
            strategy: As for :meth:`act`; None: generate once and check nothing.
            return_sampling_results: As for :meth:`act`.
            format: As for :meth:`act`.
            model_options: As for :meth:`act`.
            tool_calls: As for :meth:`act`.
            check_every: Check the answer while it is written, at the end of each ``"sentence"`` or after each so many
                tokens, by the requirements that adapters decide; the first failure ends the attempt. ``checks`` of the
                result tells where each ran, what it said and what it cost. None: the whole answer only.

        Returns:
            As :meth:`act`.

        Raises:
            RequestError: No description, an argument of the wrong kind or not supported, a placeholder without a value,
                or a prompt too long.
            AlorakitError: As :meth:`act`.
        """
        return run(
            cast(Verb, self.ainstruct)(
                description,
                images=images,
                audio=audio,
                requirements=requirements,
                icl_examples=icl_examples,
                grounding_context=grounding_context,
                user_variables=user_variables,
                prefix=prefix,
                output_prefix=output_prefix,
                strategy=strategy,
                return_sampling_results=return_sampling_results,
                format=format,
                model_options=model_options,
                tool_calls=tool_calls,
                await_result=True,
                check_every=check_every,
            )
        )

    def chat(
        self,
        content: str,
        role: str = "user",
        *,
        images: None = None,
        audio: None = None,
        documents: Iterable[str | Document] | None = None,
        user_variables: Mapping[str, str] | None = None,
        format: type[Any] | None = None,
        model_options: Options | None = None,
        tool_calls: bool = False,
    ) -> Message:
        """Say something and get the answer. Both join the context.

        Args:
            content: The text.
            role: Who says it.
            images: None; not supported.
            audio: None; not supported.
            documents: Passages put after the text.
            user_variables: Values for ``{{name}}`` placeholders in the text; None: it is taken as it is.
            format: As for :meth:`act`.
            model_options: As for :meth:`act`.
            tool_calls: As for :meth:`act`.

        Returns:
            The assistant's message, with the ids it was generated as.

        Raises:
            AlorakitError: No text, a placeholder without a value, a prompt too long, or unknown model options.
        """
        return run(
            self.achat(
                content,
                role,
                images=images,
                audio=audio,
                documents=documents,
                user_variables=user_variables,
                format=format,
                model_options=model_options,
                tool_calls=tool_calls,
            )
        )

    def query(
        self,
        obj: Any,
        query: str,
        *,
        format: type[Any] | None = None,
        model_options: Options | None = None,
        tool_calls: bool = False,
    ) -> Thunk:
        """Ask something about an object. Question and answer join the context.

        Args:
            obj: A component, an object with ``content_as_string()``, or anything whose ``str()`` tells what it is.
            query: The question.
            format: As for :meth:`act`.
            model_options: As for :meth:`act`.
            tool_calls: As for :meth:`act`.

        Returns:
            The output.
        """
        asked = self.aquery(
            obj, query, format=format, model_options=model_options, tool_calls=tool_calls, await_result=True
        )
        return run(asked)

    def validate(
        self,
        reqs: Requirement | str | Sequence[Requirement | str],
        *,
        output: Text | None = None,
        format: type[Any] | None = None,
        model_options: Options | None = None,
        generate_logs: list[Any] | None = None,
        input: Text | None = None,
    ) -> list[ValidationResult]:
        """Check requirements on the last output, or on a given one; all models that are asked share one batch.

        Args:
            reqs: One requirement or several.
            output: What to check instead. Functions and the judge find it at the end of the chat; adapters read it
                after the messages it answered, and a text alone as a training row's ``item``: one user message.
            format: Pydantic model whose JSON the judge's answer must be.
            model_options: Options for the judge, over the backend's; the system prompt is for adapters too.
            generate_logs: None; not supported.
            input: What ``output`` answers, if it is not known from ``output`` itself.

        Returns:
            One verdict for each requirement, in order.

        Raises:
            CheckError: A requirement that cannot be checked, or nothing to check.
            RequestError: An argument of the wrong kind.
        """
        checked = self.avalidate(
            reqs, output=output, format=format, model_options=model_options, generate_logs=generate_logs, input=input
        )
        return run(checked)
