"""What the base model or an adapter reads when it is to answer a chat, rather than to check it."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
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

    An adapter with ``alorakit.json`` is asked in the layout it was trained with, others as :func:`chat_ids` does.

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
    return chat_ids(tokenizer, info, messages)


def chat_ids(
    tokenizer: "Tokenizer",
    info: "AdapterInfo | None",
    messages: Sequence[Mapping[str, Any]],
    opened: bool = True,
    untrusted: bool = False,
    variables: Mapping[str, Any] = MappingProxyType({}),
) -> list[int]:
    """A chat as token ids, ready for its next turn.

    An aLoRA whose invocation is in the template's generation prompt (IBM's newer ones) answers there. Others were
    trained on chats that end with their invocation, in their own layout, so that is put at the end.

    Args:
        tokenizer: The base model's.
        info: The adapter that answers, or None for the base model.
        messages: The chat, as ``Tokenizer.render`` takes it.
        opened: Whether the assistant's turn is opened at the end.
        untrusted: Whether special-token text inside messages is ordinary text.
        variables: Further variables for the template.

    Raises:
        TokenizerError, RequestError: See :meth:`Tokenizer.render`.
        CheckError: See :func:`check_ids`.
    """
    from alorakit.engine.adapters import find_last
    from alorakit.engine.layouts import check_ids

    invocation = None if info is None else info.invocation_tokens
    ids = tokenizer.render(messages, opened, untrusted, **variables)
    if info is None or invocation is None:
        return ids
    closed = tokenizer.render(messages, False, untrusted, **variables) if opened else ids
    if find_last(ids[len(closed) :], invocation) is not None:
        return ids
    if info.manifest is None or info.manifest.layout == "chat":
        return closed + list(invocation)
    text = info.manifest.invocation or tokenizer.decode(invocation, skip_special_tokens=False)
    return check_ids(tokenizer, info.manifest.layout, messages, None, invocation, text, untrusted)
