"""Generate, check, and try again."""

import asyncio
import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Any, Self

from alorakit.bindings.checks.watch import Every, checked_every
from alorakit.bindings.session.backend import EngineBackend
from alorakit.bindings.session.blocks import Span
from alorakit.bindings.session.component import Component
from alorakit.bindings.session.context import Context
from alorakit.bindings.session.kinds import demand, listed
from alorakit.bindings.session.requirement import Requirement
from alorakit.bindings.session.results import SamplingResult, Verdicts
from alorakit.bindings.session.thunk import ModelOutputThunk
from alorakit.bindings.session.watching import STOPPED, Watch
from alorakit.engine.errors import ConfigError


class SamplingStrategy(ABC):
    """How often, and how, to try for an answer that meets its requirements."""

    @abstractmethod
    async def sample(
        self,
        action: Span,
        context: Context,
        backend: EngineBackend,
        requirements: list[Requirement] | None,
        *,
        validation_ctx: Context | None = None,
        format: type[Any] | None = None,
        model_options: Mapping[str, Any] | None = None,
        tool_calls: bool = False,
    ) -> SamplingResult:
        """Generate and check; see :meth:`BaseSamplingStrategy.sample`."""


@dataclass(frozen=True)
class Attempt:
    """One attempt: what it answered, what it said, and how that was found."""

    action: Span
    output: ModelOutputThunk[Any]
    context: Context
    verdicts: Verdicts

    @property
    def success(self) -> bool:
        """Whether it meets every requirement."""
        return all(verdict.as_bool() for _, verdict in self.verdicts)


@dataclass(frozen=True)
class Call:
    """What all attempts have in common: the arguments of :meth:`BaseSamplingStrategy.sample`."""

    action: Span
    backend: EngineBackend
    requirements: list[Requirement]
    validation_ctx: Context | None
    format: type[Any] | None
    model_options: Mapping[str, Any] | None
    tool_calls: bool
    watch: Watch | None


class BaseSamplingStrategy(SamplingStrategy):
    """Attempts, one after the other, until one meets every requirement. A subclass says what comes after a failure.

    The first attempt is greedy unless the model options say otherwise. Later ones must differ: with neither
    temperature nor seed set they use temperature 0.7 and the attempt's number as seed; with a seed set, that seed
    plus the attempt's number.

    Args:
        loop_budget: How many attempts at most, one after the other.
        concurrency_budget: How many such rows of attempts side by side, in shared batches; the first success ends all.
        requirements: Checked instead of those of the call.
        check_every: Check an attempt while it is written, at the end of each ``"sentence"`` or after each so many
            tokens, by the requirements that adapters decide; the first failure ends the attempt. None: only the whole.

    Raises:
        ConfigError: A budget is no integer, or below 1; or ``check_every`` is something else.
    """

    def __init__(
        self,
        *,
        loop_budget: int = 1,
        concurrency_budget: int = 1,
        requirements: list[Requirement] | None = None,
        check_every: Every | None = None,
    ) -> None:
        """See the class."""
        for name, budget in (("loop_budget", loop_budget), ("concurrency_budget", concurrency_budget)):
            demand(name, budget, int, ConfigError)
            if budget < 1:
                raise ConfigError(f"{name}={budget} is below 1; allow at least one attempt")
        demand("requirements", requirements, (list, tuple, NoneType), ConfigError)
        self.loop_budget, self.concurrency_budget, self.requirements = loop_budget, concurrency_budget, requirements
        self.check_every = checked_every(check_every)

    def watching(self, check_every: Every) -> Self:
        """The same strategy with another ``check_every``."""
        strategy = copy.copy(self)
        strategy.check_every = checked_every(check_every)
        return strategy

    @staticmethod
    @abstractmethod
    def repair(
        old_ctx: Context,
        new_ctx: Context,
        past_actions: Sequence[Span],
        past_results: list[ModelOutputThunk[Any]],
        past_val: list[Verdicts],
    ) -> tuple[Span, Context]:
        """What to ask after a failure.

        Args:
            old_ctx: The context without the last attempt.
            new_ctx: The context with it.
            past_actions: What the attempts so far answered.
            past_results: Their outputs.
            past_val: Their verdicts.

        Returns:
            The next action, and the context before it.
        """

    @staticmethod
    def select_from_failure(
        sampled_actions: Sequence[Span], sampled_results: list[ModelOutputThunk[Any]], sampled_val: list[Verdicts]
    ) -> int:
        """Which attempt to return where none meets every requirement.

        Args:
            sampled_actions: What was asked, for each attempt.
            sampled_results: What was answered.
            sampled_val: The requirements and their verdicts.

        Returns:
            Its index; here that of the first.
        """
        return 0

    async def sample(
        self,
        action: Span,
        context: Context,
        backend: EngineBackend,
        requirements: list[Requirement] | None,
        *,
        validation_ctx: Context | None = None,
        format: type[Any] | None = None,
        model_options: Mapping[str, Any] | None = None,
        tool_calls: bool = False,
        show_progress: bool = True,
    ) -> SamplingResult:
        """Run the attempts.

        Args:
            action: What to answer.
            context: What was said before.
            backend: Where to generate and to check.
            requirements: What each attempt must meet; see the class.
            validation_ctx: Checked instead of the context that ends with the attempt.
            format: Pydantic model whose JSON the answer must be.
            model_options: Options for this call, over the backend's.
            tool_calls: False; this backend calls no tools.
            show_progress: Accepted for Mellea's sake; nothing is shown.

        Returns:
            All attempts made. The given context is unchanged.

        Raises:
            AlorakitError: A requirement cannot be checked (then nothing is generated), or generation or a check failed
                and no attempt met the requirements.
        """
        wanted = (
            self.requirements if self.requirements is not None else listed("requirements", requirements, Requirement)
        )
        wanted = list({id(requirement): requirement for requirement in wanted}.values())
        for requirement in wanted:
            backend.ensure_checkable(requirement)
        watch = None if self.check_every is None else Watch.of(backend, wanted, self.check_every)
        call = Call(action, backend, wanted, validation_ctx, format, model_options, tool_calls, watch)
        made: list[Attempt] = []
        pending = {asyncio.create_task(self._row(call, context, made, row)) for row in range(self.concurrency_budget)}
        errors: list[BaseException] = []
        try:
            while pending and not any(attempt.success for attempt in made):
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                errors += [error for row in done if (error := row.exception()) is not None]
        finally:
            for row in pending:
                row.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
        chosen = next((at for at, attempt in enumerate(made) if attempt.success), None)
        if chosen is None and errors:
            raise errors[0]
        actions, outputs = [attempt.action for attempt in made], [attempt.output for attempt in made]
        verdicts = [attempt.verdicts for attempt in made]
        return SamplingResult(
            self.select_from_failure(actions, outputs, verdicts) if chosen is None else chosen,
            chosen is not None,
            sample_generations=outputs,
            sample_validations=verdicts,
            sample_actions=actions,
            sample_contexts=[attempt.context for attempt in made],
        )

    async def _row(self, call: Call, context: Context, made: list[Attempt], row: int) -> None:
        """Attempts one after the other, until one succeeds or the budget is spent; all are added to ``made``."""
        action, failed = call.action, list[Attempt]()
        for number in range(row * self.loop_budget, (row + 1) * self.loop_budget):
            attempt = await self._attempt(call, action, context, number)
            made.append(attempt)
            failed.append(attempt)
            if len(failed) == self.loop_budget or any(other.success for other in made):  # of any row
                return
            actions, outputs = [past.action for past in failed], [past.output for past in failed]
            action, context = self.repair(
                context, attempt.context, actions, outputs, [past.verdicts for past in failed]
            )

    async def _attempt(self, call: Call, action: Span, context: Context, number: int) -> Attempt:
        """Generate once, and check it: all requirements in one batch."""
        output, grown = await call.backend.generate_from_context(
            action,
            context,
            format=call.format,
            model_options=call.model_options,
            tool_calls=call.tool_calls,
            attempt=number,
            watch=call.watch,
        )
        await finished(output)
        # What it means is what it means to whoever asked first, even if the attempt answers a message about repairs.
        output.parsed_repr = call.action.parse(output) if isinstance(call.action, Component) else output.value
        if call.watch is not None and output.finish_reason == STOPPED:
            return Attempt(action, output, grown, call.watch.verdicts(output.latest_checks))
        checked, messages = grown, None
        if call.validation_ctx is not None:
            checked = call.validation_ctx.add(output)
            messages = checked.written()
        verdicts = await call.backend.check(call.requirements, checked, messages, model_options=call.model_options)
        return Attempt(action, output, grown, list(zip(call.requirements, verdicts, strict=True)))


async def finished(output: ModelOutputThunk[Any]) -> None:
    """Wait for an output that nobody else waits for: if this is cancelled, so is the output."""
    try:
        await output.avalue()
    except asyncio.CancelledError:
        await output.cancel_generation()
        raise
