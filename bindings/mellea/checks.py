"""Requirements: which adapter answers one, what it is asked, and the thunk that Mellea reads a verdict from."""

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mellea.backends import ModelOption
from mellea.backends.adapters import AdapterSchemaMismatchError
from mellea.core import CBlock, MelleaLogger, ModelOutputThunk, default_output_to_bool
from mellea.stdlib.requirements import ALoraRequirement, LLMaJRequirement
from mellea.stdlib.requirements.requirement import requirement_check_to_bool

from alorakit.bindings.checks.asked import writes
from alorakit.bindings.checks.choose import CAPABILITY, choose_adapter
from alorakit.bindings.checks.question import Verdict
from alorakit.bindings.mellea.thunks import Answered
from alorakit.engine.adapters import AdapterInfo
from alorakit.engine.errors import CheckError
from alorakit.engine.request import RequestOutput, ScoreResult

if TYPE_CHECKING:
    from alorakit.bindings.mellea.adapters import Adapters


def route(adapters: "Adapters", requirement: Any, default_to_adapter: bool) -> str | None:
    """Qualified name of the adapter that answers a requirement; None: the base model judges.

    As in Mellea: an ``ALoraRequirement`` goes to the adapter it names, an ``LLMaJRequirement`` to no adapter, any other
    to the one for ``requirement-check``. Where that is not there, an adapter with labels of its own answers, if only
    one can.

    Raises:
        CheckError: Several adapters could answer.
    """
    if isinstance(requirement, LLMaJRequirement):
        return None
    explicit = isinstance(requirement, ALoraRequirement)
    if not explicit and not default_to_adapter:
        return None
    name = requirement.intrinsic_name if explicit else CAPABILITY
    types = getattr(requirement, "_adapter_types", None)
    found = adapters.find(name, tuple(t.value for t in types) if types else ("alora", "lora"))
    if found is not None:
        return found
    able = {key: info for key, info in adapters.infos().items() if asked_as_trained(info)}
    if able and (not explicit or name == CAPABILITY):
        chosen = choose_adapter(able, requirement=requirement.description)
        return next(key for key, info in able.items() if info is chosen)
    if explicit:
        MelleaLogger.get_logger().warning(
            "no adapter %s for an ALoraRequirement (registered are %s); the base model judges instead",
            name,
            sorted(adapters.entries),
        )
    return None


def asked_as_trained(info: AdapterInfo) -> bool:
    """Whether a manifest says how an adapter is asked: in the layout it was trained with, and not through io.yaml."""
    return info.manifest is not None and (bool(info.manifest.labels) or writes(info))


def said(requirement: Any, verdict: Verdict, answer: RequestOutput | ScoreResult) -> Answered:
    """A verdict in the words that the requirement's ``output_to_bool`` understands.

    Mellea reads a plain requirement's answer for the word "yes", and an ``ALoraRequirement``'s for a score above 0.5.
    Its own backend answers both with the score, in which no "yes" is ever found. A requirement with a reader of its own
    gets the adapter's answer as it is.
    """
    passed, reader = bool(verdict.passed), requirement.output_to_bool
    if reader is requirement_check_to_bool:
        text = json.dumps({"requirement_check": {"score": _score(verdict)}})
    elif reader is default_output_to_bool:
        text = "yes" if passed else "no"
    else:
        text = verdict.answer
    details = {
        "passed": passed,
        "label": verdict.label,
        "score": verdict.score,
        "probabilities": verdict.probabilities,
        "reason": verdict.reason,
    }
    return Answered(text, answer, verdict.usage, getattr(answer, "finish_reason", "stop"), details)


def read(requirement: Any, answered: Answered) -> Answered:
    """What an adapter function for requirement checks answered, in the words that the requirement's reader understands.

    Raises:
        CheckError: The answer has no score.
    """
    if requirement.output_to_bool is not default_output_to_bool:
        return answered
    try:
        passed = requirement_check_to_bool(answered.text)
    except (ValueError, AdapterSchemaMismatchError) as exc:
        raise CheckError(
            f"the adapter's answer {answered.text!r:.120} has no score from 0 to 1 as Mellea's requirement-check has "
            f"({exc}); let its io.yaml end in that form, or give the requirement an output_to_bool of its own"
        ) from exc
    details = {**answered.details, "passed": passed, "score": json.loads(answered.text)["requirement_check"]["score"]}
    return replace(answered, text="yes" if passed else "no", details=details)


def _score(verdict: Verdict) -> float:
    """The passing labels' probability; on the verdict's side of 0.5, where the likeliest label alone decides."""
    passed = bool(verdict.passed)
    if verdict.score is None:
        return float(passed)
    score = min(max(verdict.score, 0.0), 1.0)
    return score if (score > 0.5) == passed else 0.5 + 1e-6 * passed


def judged(context: Any) -> list[Any]:
    """What a requirement is checked over: the chat that the context shows; if it shows none, the last output's own.

    An output remembers what it answered, so that a check over a ``SimpleContext`` reads the same chat as over a
    ``ChatContext``, and finds it in the cache.

    Raises:
        CheckError: There is nothing to judge.
    """
    view = context.view_for_generation()
    if view:
        return list(view)
    output = context.last_output()
    if output is None:
        raise CheckError(
            f"this {type(context).__name__} holds nothing to judge; generate first, or pass output=..., or use "
            "a ChatContext"
        )
    action = output._call.action
    return [*(output._call.context or []), *([] if action is None else [action]), output]


def as_trained(spans: list[Any]) -> list[Any]:
    """A text that answers nothing as what it was in training: the one message of a user."""
    alone = len(spans) == 1 and isinstance(spans[0], ModelOutputThunk)
    return [CBlock(spans[0].value)] if alone else spans


def system_prompt_of(context: Any) -> str | None:
    """The system prompt under which the last output was generated, so that a check finds it in the cache."""
    output = context.last_output()
    options = None if output is None else output._call.model_options
    prompt = (options or {}).get(ModelOption.SYSTEM_PROMPT)
    return prompt if isinstance(prompt, str) else None
