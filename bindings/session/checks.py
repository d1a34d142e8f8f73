"""Ask for a verdict: of an adapter that was trained to give it, or of the base model as judge."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from alorakit.bindings.session.asked import asked_ids, writes
from alorakit.bindings.session.blocks import Message
from alorakit.bindings.session.prompt import judge_question
from alorakit.bindings.session.requirement import ValidationResult
from alorakit.bindings.session.texts import check_text
from alorakit.bindings.session.verdict import Demand, demanded, passing_labels, quoted_labels
from alorakit.engine.errors import AdapterNotFoundError, CheckError
from alorakit.engine.manifest import Manifest

if TYPE_CHECKING:
    from alorakit.engine.adapters import AdapterInfo
    from alorakit.engine.engine import Engine
    from alorakit.engine.request import ScoreResult

CAPABILITY = "requirement-check"


def choose_adapter(
    adapters: "Mapping[str, AdapterInfo]", wanted: str | None = None, *, requirement: str | None = None
) -> "AdapterInfo":
    """Choose the adapter that answers a requirement.

    The one asked for; else, among those that have the most of the labels quoted in the requirement, the one whose
    capability is ``requirement-check``; else the only one with labels, or that answers with a text.

    Args:
        adapters: The engine's adapters, by name; not empty.
        wanted: Name that the requirement asks for, or None.
        requirement: The requirement in words, or None.

    Raises:
        AdapterNotFoundError: ``wanted`` is not loaded.
        CheckError: No adapter can check, or several can.
    """
    if wanted is not None:
        if wanted not in adapters:
            raise AdapterNotFoundError(f"no adapter named {wanted!r}; loaded are {sorted(adapters)}")
        return adapters[wanted]
    manifests = {name: info.manifest for name, info in adapters.items() if info.manifest is not None}
    quoted = {name: len(quoted_labels(manifest.labels, requirement or "")) for name, manifest in manifests.items()}
    manifests = {name: manifest for name, manifest in manifests.items() if quoted[name] == max(quoted.values())}
    able = [name for name, manifest in manifests.items() if manifest.capability == CAPABILITY]
    able = able or [name for name, manifest in manifests.items() if manifest.labels or writes(adapters[name])]
    if len(able) > 1:
        raise CheckError(f"adapters {sorted(able)} can all check; choose one with req(..., adapter=name)")
    if not able:
        raise CheckError(
            f"none of the adapters {sorted(adapters)} can check: no alorakit.json names their labels; train one with "
            "m alora train, or set backend.default_to_constraint_checking_alora = False to ask the base model"
        )
    return adapters[able[0]]


def score_labels(
    engine: "Engine", info: "AdapterInfo", messages: Sequence[Message], requirement: str | None
) -> "ScoreResult":
    """Score every label of an adapter on a chat, in the layout it was trained with.

    Args:
        engine: The engine that holds the adapter.
        info: The adapter.
        messages: The chat so far.
        requirement: The requirement in words; left out where training rows carried none.

    Returns:
        One score for each label, in the manifest's order; probabilities calibrated by the manifest's temperature.

    Raises:
        CheckError: The adapter has no manifest or no labels, or was trained with requirements and is given none.
    """
    manifest = labelled(info)
    ids = asked_ids(engine, info, manifest, messages, requirement)
    return engine.score(ids, list(manifest.labels), adapter=info.name)


def labelled(info: "AdapterInfo") -> Manifest:
    """The adapter's manifest, which names its labels.

    Raises:
        CheckError: It has none: the adapter was made elsewhere, or answers with a text.
    """
    if writes(info):
        raise CheckError(f"adapter {info.name!r} answers with a text, not with one of some labels; nothing to score")
    if info.manifest is None or not info.manifest.labels:
        raise CheckError(
            f"adapter {info.name!r} cannot check: no alorakit.json in {info.path} names its layout and labels; "
            "train it with m alora train, or write the file"
        )
    return info.manifest


def deciding(info: "AdapterInfo", requirement: str | None) -> "frozenset[str] | Demand":
    """What decides a check: the labels that pass, or what the requirement says of a text.

    Raises:
        CheckError: Nothing does, or the adapter cannot check.
    """
    if writes(info):
        return demanded(requirement)
    manifest = labelled(info)
    return passing_labels(manifest.labels, requirement, manifest.pass_labels, manifest.fail_labels)


def check_with_adapter(
    engine: "Engine", info: "AdapterInfo", messages: Sequence[Message], requirement: str | None
) -> ValidationResult:
    """Check a requirement with an adapter: its most probable label decides, or the text that it answers with.

    Args, Raises: see :func:`score_labels`; and CheckError if it is not known which answers pass.

    Returns:
        The verdict. With labels, ``score`` is the summed probability of those that pass; a text has no probability.
    """
    # Before the model runs: a check that cannot be decided should cost nothing.
    passing = deciding(info, requirement)
    if isinstance(passing, Demand):
        return check_text(engine, info, messages, requirement, passing)
    scores = score_labels(engine, info, messages, requirement)
    best = max(scores, key=lambda score: score.probability)
    return ValidationResult(
        best.text in passing,
        reason=f"adapter {info.name!r} answers {best.text!r} (probability {best.probability:.2f})",
        score=sum(score.probability for score in scores if score.text in passing),
        label=best.text,
        probabilities={score.text: score.probability for score in scores},
        usage=scores.usage,
    )


def judge(engine: "Engine", messages: Sequence[Message], requirement: str | None) -> ValidationResult:
    """Ask the base model whether the chat meets a requirement, by the probabilities of "yes" and "no".

    Args:
        engine: The engine.
        messages: The chat so far.
        requirement: The requirement in words.

    Raises:
        CheckError: There are no words to ask about.
    """
    if not requirement:
        raise CheckError("a requirement without a description needs a validation_fn or an adapter to check it")
    question = Message("user", judge_question(requirement))
    chat = [message.as_dict() for message in (*messages, question)]
    ids = engine.tokenizer.render(chat, add_generation_prompt=True)
    # Left open: whether the model would go on after "yes" is not the question.
    scores = engine.score(ids, ["yes", "no"], end=False)
    yes, no = (score.probability for score in scores)
    word = "yes" if yes > no else "no"
    return ValidationResult(
        word == "yes",
        reason=f"the base model answers {word!r} (probability {max(yes, no):.2f}) to: {requirement}",
        score=yes,
        label=word,
        probabilities={"yes": yes, "no": no},
        usage=scores.usage,
    )
