"""A check as one request to the engine, and its verdict once that is answered."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from alorakit.bindings.checks.asked import asked_ids, writes
from alorakit.bindings.checks.choose import deciding, labelled
from alorakit.bindings.checks.verdict import Demand
from alorakit.engine.errors import CheckError, ClosedError
from alorakit.engine.parsed import parsed

if TYPE_CHECKING:
    from alorakit.engine.adapters import AdapterInfo
    from alorakit.engine.mixed import Answer, Request
    from alorakit.engine.request import RequestOutput, ScoreResult, Timing, Usage
    from alorakit.engine.tokenizer import Tokenizer

MAX_ANSWER_TOKENS = 256


@dataclass(frozen=True)
class Verdict:
    """What a check came to.

    Attributes:
        passed: Whether the answer passes; None if nobody asked.
        answer: What the adapter answered: its most probable label, or the text it wrote.
        label: That label, or what the text says in the manifest's field; None for a text that says nothing.
        score: Summed probability of the labels that pass; None for a text, and if nobody asked.
        probabilities: Probability of each label, calibrated by the manifest's temperature; empty for a text.
        reason: The answer in words.
        usage: Token counts.
        timing: Seconds.
    """

    passed: bool | None
    answer: str
    label: str | None
    reason: str
    usage: "Usage"
    timing: "Timing"
    score: float | None = None
    probabilities: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Question:
    """A check that is ready to be asked.

    Attributes:
        info: The adapter that answers.
        request: What the engine is given: ``engine.batch([question.request])``.
        passing: The labels that pass, what the requirement says of a text, or None if nobody asked.
    """

    info: "AdapterInfo"
    request: "Request"
    passing: frozenset[str] | Demand | None

    def verdict(self, answer: "Answer") -> Verdict:
        """The verdict that the engine's answer to ``request`` gives.

        Raises:
            ClosedError: The engine was closed before the answer was whole.
        """
        return self._scored(answer) if isinstance(answer, list) else self._written(answer)

    def _scored(self, scores: "ScoreResult") -> Verdict:
        best = max(scores, key=lambda score: score.probability)
        passing = self.passing if isinstance(self.passing, frozenset) else None
        return Verdict(
            passed=None if passing is None else best.text in passing,
            answer=best.text,
            label=best.text,
            reason=f"adapter {self.info.name!r} answers {best.text!r} (probability {best.probability:.2f})",
            usage=scores.usage,
            timing=scores.timing,
            score=None if passing is None else sum(s.probability for s in scores if s.text in passing),
            probabilities={score.text: score.probability for score in scores},
        )

    def _written(self, output: "RequestOutput") -> Verdict:
        if output.finish_reason == "abort":
            raise ClosedError("the engine was closed before the check was answered; make another and ask again")
        name = None if self.info.manifest is None else self.info.manifest.field
        label = parsed(output.text, name)
        lacks = "" if label is not None else f", which is no JSON object with the field {name!r}"
        demand = self.passing if isinstance(self.passing, Demand) else None
        return Verdict(
            passed=None if demand is None else label is not None and demand.allows(label),
            answer=output.text,
            label=label,
            reason=f"adapter {self.info.name!r} answers {output.text!r:.200}{lacks}",
            usage=output.usage,
            timing=output.timing,
        )


def question(
    tokenizer: "Tokenizer",
    info: "AdapterInfo",
    messages: Sequence[Mapping[str, Any]],
    requirement: str | None,
    decide: bool = True,
    untrusted: bool = False,
) -> Question:
    """What to ask an adapter about a chat, in the layout it was trained with.

    An adapter with labels scores them; one that answers with a text writes it, greedily, at most
    ``MAX_ANSWER_TOKENS`` tokens.

    Args:
        tokenizer: The base model's.
        info: The adapter.
        messages: The chat so far, as ``Tokenizer.render`` takes it.
        requirement: The requirement in words; left out of the prompt where training rows carried none.
        decide: Whether a verdict is asked for. False: where nothing decides, :attr:`Verdict.passed` is None.
        untrusted: Whether special-token text inside messages and requirement is encoded as ordinary text.

    Raises:
        CheckError: The adapter cannot check, was trained with requirements and is given none, or a verdict is asked
            for and it is not known which answers pass. All of it is known before the model runs.
    """
    from alorakit.engine.mixed import GenerateRequest, ScoreRequest
    from alorakit.engine.request import SamplingParams

    manifest = info.manifest if info.manifest is not None and writes(info) else labelled(info)
    try:
        passing = deciding(info, requirement)
    except CheckError:
        if decide:
            raise
        passing = None
    ids = asked_ids(tokenizer, info, manifest, messages, requirement, untrusted)
    if writes(info):
        sampling = SamplingParams(max_tokens=MAX_ANSWER_TOKENS)
        return Question(info, GenerateRequest(ids, sampling, info.name, info.digest), passing)
    return Question(info, ScoreRequest(ids, list(manifest.labels), info.name, digest=info.digest), passing)
