"""The base model as judge."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from alorakit.bindings.session.blocks import Message
from alorakit.bindings.session.prompt import judge_question
from alorakit.bindings.session.requirement import ValidationResult
from alorakit.engine.errors import CheckError

if TYPE_CHECKING:
    from alorakit.engine.engine import Engine


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
