"""The methods of a session that are awaited."""

from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Literal, cast, overload

from alorakit.bindings.checks.watch import Every
from alorakit.bindings.session.blocks import CBlock, Document, Message, Span
from alorakit.bindings.session.component import Component
from alorakit.bindings.session.instruction import Instruction, Query
from alorakit.bindings.session.kinds import demand, demand_text, listed, refuse
from alorakit.bindings.session.life import SessionLife
from alorakit.bindings.session.prompt import fill
from alorakit.bindings.session.requirement import Requirement, reqify
from alorakit.bindings.session.results import SamplingResult
from alorakit.bindings.session.sampling import BaseSamplingStrategy, SamplingStrategy, finished
from alorakit.bindings.session.strategies import RejectionSamplingStrategy
from alorakit.bindings.session.target import Text, target
from alorakit.bindings.session.thunk import ModelOutputThunk
from alorakit.bindings.session.validation import ValidationResult
from alorakit.engine.errors import ConfigError

Options = Mapping[str, Any]
Thunk = ModelOutputThunk[Any]
Reqs = Sequence[Requirement | str] | Requirement | str
Verb = Callable[..., Coroutine[Any, Any, Thunk | SamplingResult]]  # which of the two a flag decides, at run time
TWO_TRIES = RejectionSamplingStrategy(loop_budget=2)


class AsyncSession(SessionLife):
    """What a :class:`MelleaSession` has for coroutines; see there.

    With ``await_result=False`` and no strategy the output is returned while it is still being written.
    """

    @overload
    async def aact(
        self, action: Span, *, requirements: list[Requirement] | None = None, strategy: SamplingStrategy | None = None,
        return_sampling_results: Literal[False] = False, format: type[Any] | None = None,
        model_options: Options | None = None, tool_calls: bool = False, await_result: bool = False,
    ) -> Thunk: ...  # fmt: skip

    @overload
    async def aact(
        self, action: Span, *, requirements: list[Requirement] | None = None, strategy: SamplingStrategy | None = None,
        return_sampling_results: Literal[True], format: type[Any] | None = None,
        model_options: Options | None = None, tool_calls: bool = False, await_result: bool = False,
    ) -> SamplingResult: ...  # fmt: skip

    async def aact(
        self,
        action: Span,
        *,
        requirements: list[Requirement] | None = None,
        strategy: SamplingStrategy | None = None,
        return_sampling_results: bool = False,
        format: type[Any] | None = None,
        model_options: Options | None = None,
        tool_calls: bool = False,
        await_result: bool = False,
    ) -> Thunk | SamplingResult:
        """As :meth:`MelleaSession.act`."""
        if not isinstance(action, CBlock | Component | ModelOutputThunk):
            demand("action", action, (CBlock, Component, ModelOutputThunk))
        if strategy is None:
            if return_sampling_results:
                raise ConfigError("return_sampling_results=True needs a strategy; give one, or leave it out")
            if requirements:
                raise ConfigError(f"requirements={requirements!r:.200} need a strategy that checks them; give one")
            output, grown = await self.backend.generate_from_context(
                action, self.ctx, format=format, model_options=model_options, tool_calls=tool_calls
            )
            if await_result:
                await finished(output)
            self._go_on([grown])
            return output
        demand("strategy", strategy, SamplingStrategy, ConfigError)
        result = await strategy.sample(
            action,
            self.ctx,
            self.backend,
            requirements,
            format=format,
            model_options=model_options,
            tool_calls=tool_calls,
        )
        self._go_on([*result.sample_contexts, result.result_ctx])
        return result if return_sampling_results else result.result

    @overload
    async def ainstruct(
        self, description: str, *, images: None = None, audio: None = None, requirements: Reqs | None = None,
        icl_examples: Sequence[str | CBlock] | None = None, grounding_context: Mapping[str, str | Span] | None = None,
        user_variables: Mapping[str, str] | None = None, prefix: str | CBlock | None = None,
        output_prefix: str | CBlock | None = None, strategy: SamplingStrategy | None = ...,
        return_sampling_results: Literal[False] = False, format: type[Any] | None = None,
        model_options: Options | None = None, tool_calls: bool = False, await_result: bool = False,
        check_every: Every | None = None,
    ) -> Thunk: ...  # fmt: skip

    @overload
    async def ainstruct(
        self, description: str, *, images: None = None, audio: None = None, requirements: Reqs | None = None,
        icl_examples: Sequence[str | CBlock] | None = None, grounding_context: Mapping[str, str | Span] | None = None,
        user_variables: Mapping[str, str] | None = None, prefix: str | CBlock | None = None,
        output_prefix: str | CBlock | None = None, strategy: SamplingStrategy | None = ...,
        return_sampling_results: Literal[True], format: type[Any] | None = None,
        model_options: Options | None = None, tool_calls: bool = False, await_result: bool = False,
        check_every: Every | None = None,
    ) -> SamplingResult: ...  # fmt: skip

    async def ainstruct(
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
        await_result: bool = False,
        check_every: Every | None = None,
    ) -> Thunk | SamplingResult:
        """As :meth:`MelleaSession.instruct`."""
        if check_every is not None:
            demand("a strategy for check_every", strategy, BaseSamplingStrategy, ConfigError)
            strategy = cast(BaseSamplingStrategy, strategy).watching(check_every)
        demand_text("the description", description)
        action = Instruction(
            description,
            listed("requirements", requirements, (str, Requirement)),
            icl_examples,
            grounding_context,
            user_variables,
            prefix,
            output_prefix,
            images,
            audio,
        )
        return await cast(Verb, self.aact)(
            action,
            requirements=action.requirements if strategy is not None else None,
            strategy=strategy,
            return_sampling_results=return_sampling_results,
            format=format,
            model_options=model_options,
            tool_calls=tool_calls,
            await_result=await_result,
        )

    async def achat(
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
        """As :meth:`MelleaSession.chat`."""
        demand_text("the content", content)
        refuse("chat", images=images, audio=audio)
        said = Message(role, fill(content, user_variables), documents=documents)
        output = await self.aact(
            said, format=format, model_options=model_options, tool_calls=tool_calls, await_result=True
        )
        return output.as_message()

    async def aquery(
        self,
        obj: Any,
        query: str,
        *,
        format: type[Any] | None = None,
        model_options: Options | None = None,
        tool_calls: bool = False,
        await_result: bool = False,
    ) -> Thunk:
        """As :meth:`MelleaSession.query`."""
        return await self.aact(
            Query.about(obj, query),
            format=format,
            model_options=model_options,
            tool_calls=tool_calls,
            await_result=await_result,
        )

    async def avalidate(
        self,
        reqs: Requirement | str | Sequence[Requirement | str],
        *,
        output: Text | None = None,
        format: type[Any] | None = None,
        model_options: Options | None = None,
        generate_logs: list[Any] | None = None,
        input: Text | None = None,
    ) -> list[ValidationResult]:
        """As :meth:`MelleaSession.validate`."""
        refuse("validate", generate_logs=generate_logs)
        demand("reqs", reqs, (str, Requirement, Iterable))
        wanted = [reqify(item) for item in listed("reqs", reqs, (str, Requirement))]
        context, messages = await target(self.ctx, output, input)
        return await self.backend.check(wanted, context, messages, format=format, model_options=model_options)
