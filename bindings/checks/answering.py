"""What the base model or an adapter reads when it is to answer a chat, rather than to check it."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from alorakit.bindings.checks.asked import asked_ids

if TYPE_CHECKING:
    from alorakit.engine.adapters import AdapterInfo
    from alorakit.engine.tokenizer import Tokenizer


def answer_ids(
    tokenizer: "Tokenizer",
    info: "AdapterInfo | None",
    messages: Sequence[Mapping[str, Any]],
    requirement: str | None = None,
) -> list[int]:
    """The ids of a chat with the assistant's turn opened, so that what comes next is the answer.

    An adapter with ``alorakit.json`` is asked in the layout it was trained with. Of others, an aLoRA needs its
    invocation: if the chat template writes it where it opens the turn, that is all; else it takes that place.

    Args:
        tokenizer: The base model's.
        info: The adapter that answers; None: the base model.
        messages: The chat, as ``Tokenizer.render`` takes it.
        requirement: For an adapter that was trained with requirements.

    Raises:
        CheckError: The adapter was trained with requirements and is given none.
        RequestError: The chat is empty or malformed.
        TokenizerError: The chat template is missing or fails.
    """
    if info is not None and info.manifest is not None:
        return asked_ids(tokenizer, info, info.manifest, messages, requirement)
    from alorakit.engine.adapters import find_last

    opened = tokenizer.render(messages, add_generation_prompt=True)
    if info is None or info.invocation_tokens is None:
        return opened
    closed, invocation = tokenizer.render(messages), list(info.invocation_tokens)
    if find_last(opened[len(closed) :], tuple(invocation)) is not None:
        return opened
    return [*closed, *invocation]
