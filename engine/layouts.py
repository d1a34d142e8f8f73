r"""Check layouts: how a chat and a requirement become the ids that a check prefills, in training and in inference.

    chat    render(messages [+ user message "Requirement: ..."]) ++ invocation ids ++ label ids
    mellea  "{item}\nRequirement: <|end_of_text|>\n{invocation}{label}", tokenized whole

Training appends EOS to the label ids.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from alorakit.engine.errors import CheckError, ConfigError
from alorakit.engine.tokenizer import Tokenizer

DEFAULT_INVOCATION = "<|start_of_role|>check_requirement<|end_of_role|>"
LAYOUTS = ("chat", "mellea")


def check_ids(
    tokenizer: Tokenizer,
    layout: str,
    messages: Sequence[Mapping[str, Any]],
    requirement: str | None,
    invocation_ids: Sequence[int],
    invocation_text: str,
    untrusted: bool = False,
) -> list[int]:
    """What a check prefills: the context, then the invocation.

    Args:
        tokenizer: The base model's tokenizer.
        layout: One of :data:`LAYOUTS`; what the adapter was trained with.
        messages: The chat so far, without a generation prompt.
        requirement: What to check; None or empty for an adapter trained without requirements.
        invocation_ids: The adapter's invocation tokens.
        invocation_text: Their text, which layout ``mellea`` tokenizes together with the context.
        untrusted: Whether special-token text inside messages and requirement is encoded as ordinary text; layout
            ``mellea`` refuses it instead.

    Returns:
        Ids that end with ``invocation_ids``.

    Raises:
        ConfigError: Unknown layout.
        CheckError: Tokenizing the whole text lost the invocation, or ``untrusted`` text spells a special token.
        RequestError: The chat is empty or malformed.
        TokenizerError: The chat template is missing or fails.
    """
    prefix, rest = training_ids(
        tokenizer, layout, messages, requirement, "", invocation_ids, invocation_text, untrusted
    )
    if rest:
        raise _lost(invocation_text)
    return [*prefix, *invocation_ids]


def training_ids(
    tokenizer: Tokenizer,
    layout: str,
    messages: Sequence[Mapping[str, Any]],
    requirement: str | None,
    label: str,
    invocation_ids: Sequence[int],
    invocation_text: str,
    untrusted: bool = False,
) -> tuple[list[int], list[int]]:
    """A training row's ids: those before the invocation, and those of the label.

    Args:
        tokenizer: As for :func:`check_ids`, and so are layout, messages, requirement, invocation_ids, invocation_text.
        layout: See there.
        messages: See there.
        requirement: See there.
        label: The answer to learn; its ids come without EOS.
        invocation_ids: See there.
        invocation_text: See there.
        untrusted: See there.

    Returns:
        (prefix ids, label ids); the row is prefix ++ invocation ++ label.

    Raises:
        ConfigError: Unknown layout.
        CheckError: As for :func:`check_ids`.
        RequestError: The chat is empty or malformed.
        TokenizerError: The chat template is missing or fails.
    """
    if layout == "chat":
        asked = [{"role": "user", "content": f"Requirement: {requirement}"}] if requirement else []
        prefix = tokenizer.render([*messages, *asked], untrusted=untrusted)
        return prefix, tokenizer.encode(label, add_special_tokens=False)
    if layout != "mellea":
        raise ConfigError(f"layout {layout!r} is unknown; known layouts: {', '.join(LAYOUTS)}")
    item = "\n".join([*(str(message["content"]) for message in messages), *([requirement] if requirement else [])])
    if untrusted and _spells_special(tokenizer, item):
        raise CheckError(
            "layout 'mellea': the chat or the requirement spells a special token, which this layout cannot tell from a "
            "real one; remove it"
        )
    text = f"{item}\nRequirement: <|end_of_text|>\n{invocation_text}{label}"
    ids = tokenizer.encode(text, add_special_tokens=False)
    start = _last_occurrence(ids, list(invocation_ids))
    if start is None:
        raise _lost(invocation_text)
    return ids[:start], ids[start + len(invocation_ids) :]


def _spells_special(tokenizer: Tokenizer, text: str) -> bool:
    plain = tokenizer.encode(text, add_special_tokens=False)
    return plain != tokenizer.encode(text, add_special_tokens=False, untrusted=True)


def _last_occurrence(ids: list[int], part: list[int]) -> int | None:
    starts = range(len(ids) - len(part), -1, -1)
    return next((start for start in starts if ids[start : start + len(part)] == part), None)


def _lost(invocation_text: str) -> CheckError:
    return CheckError(
        f"layout 'mellea': tokenizing the whole text merges the invocation {invocation_text!r} with its surroundings; "
        "use layout 'chat', or an invocation made of special tokens"
    )
