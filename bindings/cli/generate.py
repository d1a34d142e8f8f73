"""``m alora generate``: prompts in, answers out, by the base model or by adapters."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from alorakit.bindings.cli import sampling_options as flags
from alorakit.bindings.cli.adapters import ADAPTER_HELP, resolve_adapters
from alorakit.bindings.cli.errors import Debug, reported
from alorakit.bindings.cli.options import Device, Dtype
from alorakit.bindings.cli.prompts import read_asks
from alorakit.engine.config import EngineConfig
from alorakit.engine.errors import ConfigError
from alorakit.engine.request import SamplingParams as Defaults


def generate(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(help="Base model: Hub id or folder.")],
    prompts: Annotated[
        list[str] | None, typer.Argument(metavar="PROMPT", help="What to answer; - is standard input.")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            help='JSON lines to answer: each a text, {"prompt": ...}, {"messages": [...]} or a list of messages; '
            "- is standard input."
        ),
    ] = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option(metavar="[NAME=]DIR", help=f"{ADAPTER_HELP}; repeatable: each of them answers every prompt."),
    ] = None,
    chat: Annotated[
        bool | None,
        typer.Option("--chat/--no-chat", help="Prompts are a user's messages. Default: if the model has a template."),
    ] = None,
    system: Annotated[str | None, typer.Option(help="System message before every chat.")] = None,
    requirement: Annotated[str | None, typer.Option(help="For adapters that were trained with requirements.")] = None,
    max_tokens: flags.MaxTokens = flags.MAX_TOKENS,
    min_tokens: flags.MinTokens = Defaults.min_tokens,
    temperature: flags.Temperature = Defaults.temperature,
    top_p: flags.TopP = Defaults.top_p,
    top_k: flags.TopK = Defaults.top_k,
    min_p: flags.MinP = Defaults.min_p,
    seed: flags.Seed = Defaults.seed,
    n: Annotated[int, typer.Option("--n", "-n", help="Answers to each prompt.")] = Defaults.n,
    stop: flags.Stop = None,
    stop_token_ids: flags.StopTokenIds = None,
    ignore_eos: flags.IgnoreEos = Defaults.ignore_eos,
    logprobs: Annotated[
        int | None, typer.Option(help="With --json: log-probabilities of the tokens and of so many top ones.")
    ] = Defaults.logprobs,
    prompt_logprobs: Annotated[int | None, typer.Option(help="The same of the prompt's tokens.")] = (
        Defaults.prompt_logprobs
    ),
    presence_penalty: flags.PresencePenalty = Defaults.presence_penalty,
    frequency_penalty: flags.FrequencyPenalty = Defaults.frequency_penalty,
    repetition_penalty: flags.RepetitionPenalty = Defaults.repetition_penalty,
    structured: flags.Structured = None,
    stream: Annotated[
        bool | None,
        typer.Option("--stream/--no-stream", help="Print while it is written. Default: one answer on a terminal."),
    ] = None,
    device: Device = EngineConfig.device,
    dtype: Dtype = EngineConfig.dtype,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line for every answer.")] = False,
    debug: Debug = False,
) -> None:
    """Answer prompts with a model, or with adapters on it."""
    with reported(debug):
        EngineConfig(device=device, dtype=dtype)  # type: ignore[arg-type]  # raises now if they are none
        params = flags.sampling_params(ctx)
        asks = read_asks(prompts or [], file)
        single = len(asks) * params.n * max(1, len(adapter or ())) == 1
        if stream and (as_json or not single):
            raise ConfigError(
                "--stream prints one answer as text; leave out --json, -n, and all but one prompt and adapter"
            )
        if requirement is not None and not adapter:
            raise ConfigError("--requirement is for adapters that were trained with requirements; give --adapter")
        if not as_json and (params.logprobs is not None or params.prompt_logprobs is not None):
            raise ConfigError("--logprobs and --prompt-logprobs are shown by --json only; give that too")
        folders = resolve_adapters(adapter or ())
        # torch comes in from here on, after everything that can be checked without it.
        from alorakit.bindings.cli.generate_run import Job, run

        streamed = stream if stream is not None else single and not as_json and sys.stdout.isatty()
        run(Job(model, asks, folders, params, chat, system, requirement, streamed, as_json, device, dtype))
