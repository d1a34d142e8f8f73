"""What an adapter is asked, and how it answers."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from alorakit.engine.errors import CheckError
from alorakit.engine.layouts import check_ids
from alorakit.engine.manifest import Manifest

if TYPE_CHECKING:
    from alorakit.engine.adapters import AdapterInfo
    from alorakit.engine.tokenizer import Tokenizer


def writes(info: "AdapterInfo") -> bool:
    """Whether an adapter answers with a text of its own rather than with one of its labels."""
    return info.manifest is not None and info.manifest.answer == "text"


def asked_ids(
    tokenizer: "Tokenizer",
    info: "AdapterInfo",
    manifest: Manifest,
    messages: Sequence[Mapping[str, Any]],
    requirement: str | None,
    untrusted: bool = False,
) -> list[int]:
    """What a check prefills, in the layout that the adapter was trained with.

    Args:
        tokenizer: The base model's.
        info: The adapter.
        manifest: Its manifest.
        messages: The chat so far, as ``Tokenizer.render`` takes it.
        requirement: The requirement in words; left out where training rows carried none.
        untrusted: Whether special-token text inside messages and requirement is encoded as ordinary text.

    Raises:
        CheckError: The adapter was trained with requirements and is given none; see also ``check_ids``.
    """
    asked = (requirement or "") if manifest.requirements else None
    if asked is not None and not asked.strip():
        raise CheckError(
            f"adapter {info.name!r} was trained with requirements; give one (--requirement on the command line)"
        )
    text = manifest.invocation
    if info.invocation_tokens is not None:
        invocation = list(info.invocation_tokens)
        text = text or tokenizer.decode(invocation, skip_special_tokens=False)
    else:  # a LoRA has no activation tokens; it was trained with the same words at the same place
        invocation = tokenizer.encode(text, add_special_tokens=False)
    return check_ids(tokenizer, manifest.layout, messages, asked, invocation, text, untrusted)
