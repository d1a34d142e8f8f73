"""What an adapter is asked, and how it answers."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from alorakit.bindings.session.blocks import Message
from alorakit.engine.errors import CheckError
from alorakit.engine.layouts import check_ids
from alorakit.engine.manifest import Manifest

if TYPE_CHECKING:
    from alorakit.engine.adapters import AdapterInfo
    from alorakit.engine.engine import Engine


def writes(info: "AdapterInfo") -> bool:
    """Whether an adapter answers with a text of its own rather than with one of its labels."""
    return info.manifest is not None and info.manifest.answer == "text"


def asked_ids(
    engine: "Engine", info: "AdapterInfo", manifest: Manifest, messages: Sequence[Message], requirement: str | None
) -> list[int]:
    """What a check prefills, in the layout that the adapter was trained with.

    Args:
        engine: The engine that holds the adapter.
        info: The adapter.
        manifest: Its manifest.
        messages: The chat so far.
        requirement: The requirement in words; left out where training rows carried none.

    Raises:
        CheckError: The adapter was trained with requirements and is given none.
    """
    asked = (requirement or "") if manifest.requirements else None
    if asked is not None and not asked.strip():
        raise CheckError(
            f"adapter {info.name!r} was trained with requirements; give one (--requirement on the command line)"
        )
    text = manifest.invocation
    if info.invocation_tokens is not None:
        invocation = list(info.invocation_tokens)
        text = text or engine.tokenizer.decode(invocation, skip_special_tokens=False)
    else:  # a LoRA has no activation tokens; it was trained with the same words at the same place
        invocation = engine.tokenizer.encode(text, add_special_tokens=False)
    chat = [message.as_dict() for message in messages]
    return check_ids(engine.tokenizer, manifest.layout, chat, asked, invocation, text)
