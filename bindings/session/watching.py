"""Requirements that are checked while an answer is written."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from alorakit.bindings.checks.choose import choose_adapter
from alorakit.bindings.checks.question import Question, question
from alorakit.bindings.checks.watch import Every, Partial, PartialCheck, Watched, watch
from alorakit.bindings.session.blocks import Message
from alorakit.bindings.session.flight import Flight
from alorakit.bindings.session.requirement import Requirement, default_output_to_bool
from alorakit.bindings.session.validation import ValidationResult
from alorakit.engine.errors import ConfigError

if TYPE_CHECKING:
    from alorakit.bindings.session.backend import EngineBackend
    from alorakit.engine.async_engine import AsyncEngine, AsyncStream
    from alorakit.engine.engine import Engine
    from alorakit.engine.request import RequestOutput

STOPPED = "check"  # an answer's finish_reason


@dataclass(frozen=True)
class Watch:
    """What is checked of an answer that is being written, and when.

    Attributes:
        every: ``"sentence"``, or a number of tokens.
        requirements: Those that an adapter decides.
        adapters: Names of their adapters; what has the name when a check is made answers it.
        engine: Where the adapters are.
        prompt: The messages that are answered.
    """

    every: Every
    requirements: tuple[Requirement, ...]
    adapters: tuple[str, ...]
    engine: "Engine"
    prompt: tuple[Message, ...] = ()

    @classmethod
    def of(cls, backend: "EngineBackend", requirements: Sequence[Requirement], every: Every) -> "Watch":
        """Watch what adapters decide; functions and the judge wait for the whole answer.

        Raises:
            ConfigError: No requirement is decided by an adapter.
            CheckError, AdapterNotFoundError: See :meth:`EngineBackend.ensure_checkable`.
        """
        asked = [r for r in requirements if not r.decides_alone and r.output_to_bool is default_output_to_bool]
        pairs = [(r, info) for r in asked if (info := backend.adapter_for(r)) is not None]
        if not pairs:
            raise ConfigError(
                f"check_every={every!r} needs a requirement that an adapter checks, and none of these is; add an "
                "adapter, or leave check_every out"
            )
        return cls(every, tuple(r for r, _ in pairs), tuple(info.name for _, info in pairs), backend.engine)

    def over(self, prompt: Sequence[Message]) -> "Watch":
        """The same over the answer to ``prompt``."""
        return replace(self, prompt=tuple(prompt))

    async def read(
        self, running: "AsyncEngine", stream: "AsyncStream", flight: Flight, seconds: float | None
    ) -> "RequestOutput":
        """Read an answer to its end, or until a check fails; its output ends with ``finish_reason`` "check" then.

        Raises:
            AlorakitError: The answer or a check failed, or the backend was closed meanwhile.
            TimeoutError: A piece took longer than so many seconds.
        """
        from alorakit.bindings.session.writing import alive

        words = [requirement.description for requirement in self.requirements]
        watched = await watch(running, stream, self.every, self._questions, words, flight.push, seconds)
        flight.checks, flight.latest = watched.checks, watched.latest
        return alive(watched.output) if watched.output is not None else _stopped(watched)

    def verdicts(self, latest: Sequence[PartialCheck]) -> list[tuple[Requirement, ValidationResult]]:
        """The verdicts of a beginning's checks."""
        return [(r, _result(check)) for r, check in zip(self.requirements, latest, strict=True)]

    def _questions(self, partial: Partial) -> list[Question]:
        written = Message("assistant", partial.text, token_ids=partial.token_ids)
        chat = [message.as_dict() for message in (*self.prompt, written)]
        return [
            question(self.engine.tokenizer, choose_adapter(self.engine.adapters, name), chat, requirement.description)
            for requirement, name in zip(self.requirements, self.adapters, strict=True)
        ]


def _stopped(watched: Watched) -> "RequestOutput":
    from alorakit.engine.request import RequestOutput, Timing, Usage

    usage = watched.usage or Usage(0, 0, 0)
    usage = Usage(usage.prompt_tokens, usage.cached_tokens, len(watched.token_ids))
    return RequestOutput(
        watched.text, watched.token_ids, STOPPED, None, None, None, None, usage, Timing(0.0, 0.0, watched.seconds)
    )


def _result(check: PartialCheck) -> ValidationResult:
    return ValidationResult(
        check.passed,
        reason=f"after {check.num_tokens} tokens, {check.reason}",
        score=check.probability,
        label=check.label,
        usage=check.usage,
    )
