"""Adapters that answer with a text: it is generated, and what it says decides a check."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from alorakit.bindings.session.asked import asked_ids, writes
from alorakit.bindings.session.blocks import Message
from alorakit.bindings.session.requirement import ValidationResult
from alorakit.bindings.session.verdict import Demand
from alorakit.engine.errors import CheckError
from alorakit.engine.parsed import parsed

if TYPE_CHECKING:
    from alorakit.engine.adapters import AdapterInfo
    from alorakit.engine.engine import Engine
    from alorakit.engine.request import RequestOutput

MAX_ANSWER_TOKENS = 256


def write_answer(
    engine: "Engine", info: "AdapterInfo", messages: Sequence[Message], requirement: str | None
) -> "tuple[RequestOutput, str | None]":
    """The answer of an adapter that answers with a text: generated greedily, at most ``MAX_ANSWER_TOKENS`` tokens.

    Args:
        engine: The engine that holds the adapter.
        info: The adapter.
        messages: The chat so far.
        requirement: The requirement in words; left out where training rows carried none.

    Returns:
        The output, and what it says: the manifest's field, or all of it; None if it is no JSON object with that field.

    Raises:
        CheckError: The adapter answers with labels, or was trained with requirements and is given none.
    """
    from alorakit.engine.request import SamplingParams

    manifest = info.manifest
    if manifest is None or not writes(info):
        raise CheckError(f"adapter {info.name!r} answers with one of its labels, not with a text; score them instead")
    ids = asked_ids(engine, info, manifest, messages, requirement)
    [output] = engine.generate([ids], SamplingParams(max_tokens=MAX_ANSWER_TOKENS), adapter=info.name)
    return output, parsed(output.text, manifest.field)


def check_text(
    engine: "Engine", info: "AdapterInfo", messages: Sequence[Message], requirement: str | None, demand: Demand
) -> ValidationResult:
    """Check a requirement by what an adapter's answer says; an answer that says nothing fails.

    Args: see :func:`write_answer`; ``demand`` is what the requirement asks.

    Raises:
        CheckError: As :func:`write_answer`.
    """
    output, value = write_answer(engine, info, messages, requirement)
    field = "" if info.manifest is None else info.manifest.field
    lacks = "" if value is not None else f", which is no JSON object with the field {field!r}"
    return ValidationResult(
        value is not None and demand.allows(value),
        reason=f"adapter {info.name!r} answers {output.text!r:.200}{lacks}",
        label=value,
        usage=output.usage,
    )
