"""Flags of ``m alora generate`` and ``chat``: how to decode, under the names of ``SamplingParams``."""

import json
from dataclasses import fields
from typing import Annotated, Any

import typer

from alorakit.bindings.paths import existing
from alorakit.engine.errors import ConfigError
from alorakit.engine.request import SamplingParams

# SamplingParams' own 16 are for programs.
MAX_TOKENS = 256

MaxTokens = Annotated[int, typer.Option(help="Most tokens of an answer.")]
MinTokens = Annotated[int, typer.Option(help="No end before so many tokens.")]
Temperature = Annotated[float, typer.Option(help="0 is greedy; else logits are divided by it.")]
TopP = Annotated[float, typer.Option(help="Keep the smallest set of tokens whose probability reaches this.")]
TopK = Annotated[int, typer.Option(help="Keep the most likely so many tokens; 0 keeps all.")]
MinP = Annotated[float, typer.Option(help="Keep tokens with this share of the most likely one's probability.")]
Seed = Annotated[int | None, typer.Option(help="Makes samples reproducible.")]
Stop = Annotated[list[str] | None, typer.Option(help="A text that ends the answer; repeatable.")]
StopTokenIds = Annotated[list[int] | None, typer.Option(help="A token that ends the answer; repeatable.")]
IgnoreEos = Annotated[bool, typer.Option("--ignore-eos", help="Go on through end-of-sequence tokens.")]
PresencePenalty = Annotated[float, typer.Option(help="Taken from the logit of every token decoded so far.")]
FrequencyPenalty = Annotated[float, typer.Option(help="The same once for every time that it was decoded.")]
RepetitionPenalty = Annotated[float, typer.Option(help="Divides logits of tokens in prompt and answer.")]
Structured = Annotated[
    str | None,
    typer.Option(
        metavar="FILE|JSON",
        help='What the answer must be: a JSON schema, a list of texts, or "a regular expression" in quotes.',
    ),
]


def sampling_params(ctx: typer.Context) -> SamplingParams:
    """The parameters that a command's flags make: those named as ``SamplingParams`` names its fields.

    Raises:
        RequestError: A value is out of range, or two contradict each other.
        ConfigError: ``--structured`` is neither a file of JSON nor JSON.
    """
    names = {field.name for field in fields(SamplingParams)}
    values = {name: value for name, value in ctx.params.items() if name in names}
    return SamplingParams(**{**values, "structured": read_structured(values.get("structured"))})


def read_structured(text: str | None) -> Any:
    """The value of ``--structured``: the JSON in a file of that name, else the JSON that it is.

    Raises:
        ConfigError: It is neither.
    """
    if text is None:
        return None
    path = existing(text)
    try:
        return json.loads(text if path is None else path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as exc:
        what = "neither a file nor JSON" if path is None else "a file that is not JSON"
        raise ConfigError(
            f"--structured {text!r:.80} is {what} ({exc}); give a JSON schema, a list of texts, or a regular "
            "expression as a JSON string"
        ) from exc
