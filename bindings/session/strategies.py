"""What to do after an attempt that failed: the same again, the same with a note, or another turn of the chat."""

from collections.abc import Sequence
from typing import Any

from alorakit.bindings.session.blocks import Message, Span
from alorakit.bindings.session.context import ChatContext, Context
from alorakit.bindings.session.instruction import Instruction
from alorakit.bindings.session.prompt import repair_message, repair_note
from alorakit.bindings.session.results import Verdicts
from alorakit.bindings.session.sampling import BaseSamplingStrategy
from alorakit.bindings.session.thunk import ModelOutputThunk
from alorakit.engine.errors import ConfigError


class RejectionSamplingStrategy(BaseSamplingStrategy):
    """Repeat the same action. If every attempt fails, the first is returned. See :class:`BaseSamplingStrategy`."""

    @staticmethod
    def repair(
        old_ctx: Context,
        new_ctx: Context,
        past_actions: Sequence[Span],
        past_results: list[ModelOutputThunk[Any]],
        past_val: list[Verdicts],
    ) -> tuple[Span, Context]:
        """The same action and context."""
        return past_actions[-1], old_ctx


class RepairTemplateStrategy(BaseSamplingStrategy):
    """Repeat the instruction with a note on what failed. If every attempt fails, the first is returned."""

    @staticmethod
    def repair(
        old_ctx: Context,
        new_ctx: Context,
        past_actions: Sequence[Span],
        past_results: list[ModelOutputThunk[Any]],
        past_val: list[Verdicts],
    ) -> tuple[Span, Context]:
        """The instruction with the note, and the same context; an action that is no instruction as it is."""
        last = past_actions[-1]
        if isinstance(last, Instruction):
            return last.copy_and_repair(repair_note(_faults(past_val[-1]))), old_ctx
        return last, old_ctx


class MultiTurnStrategy(BaseSamplingStrategy):
    """Tell the model in the next turn what failed. If every attempt fails, the last is returned."""

    @staticmethod
    def select_from_failure(
        sampled_actions: Sequence[Span], sampled_results: list[ModelOutputThunk[Any]], sampled_val: list[Verdicts]
    ) -> int:
        """The last."""
        return -1

    @staticmethod
    def repair(
        old_ctx: Context,
        new_ctx: Context,
        past_actions: Sequence[Span],
        past_results: list[ModelOutputThunk[Any]],
        past_val: list[Verdicts],
    ) -> tuple[Span, Context]:
        """A message of the user, and the context with the attempt in it.

        Raises:
            ConfigError: The context is no ChatContext: the model would not see what it said.
        """
        if not isinstance(new_ctx, ChatContext):
            raise ConfigError(
                f"MultiTurnStrategy needs a ChatContext, found {type(new_ctx).__name__}; give the session "
                "ctx=ChatContext(), or use RepairTemplateStrategy"
            )
        return Message("user", repair_message(_faults(past_val[-1]))), new_ctx


def _faults(verdicts: Verdicts) -> list[str]:
    """What failed, each in the words of its verdict, else of its requirement."""
    return [
        str(verdict.reason or requirement.description) for requirement, verdict in verdicts if not verdict.as_bool()
    ]
