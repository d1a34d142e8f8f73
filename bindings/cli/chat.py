"""``m alora chat``: a chat on the terminal, with adapters to answer and to check."""

from pathlib import Path
from typing import Annotated

import typer

from alorakit.bindings.cli import sampling_options as flags
from alorakit.bindings.cli.adapters import ADAPTER_HELP, add_adapters, resolve_adapters
from alorakit.bindings.cli.errors import EXIT_BAD_INPUT, Debug, reported
from alorakit.bindings.cli.options import Device, Dtype
from alorakit.engine.config import EngineConfig
from alorakit.engine.request import SamplingParams as Defaults


def chat(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(help="Base model: Hub id or folder.")],
    adapter: Annotated[
        list[str] | None, typer.Option(metavar="[NAME=]DIR", help=f"{ADAPTER_HELP}; repeatable.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="System message.")] = None,
    load: Annotated[Path | None, typer.Option(help="Go on with a chat that /save wrote.")] = None,
    max_tokens: flags.MaxTokens = flags.MAX_TOKENS,
    min_tokens: flags.MinTokens = Defaults.min_tokens,
    temperature: flags.Temperature = Defaults.temperature,
    top_p: flags.TopP = Defaults.top_p,
    top_k: flags.TopK = Defaults.top_k,
    min_p: flags.MinP = Defaults.min_p,
    seed: flags.Seed = Defaults.seed,
    stop: flags.Stop = None,
    presence_penalty: flags.PresencePenalty = Defaults.presence_penalty,
    frequency_penalty: flags.FrequencyPenalty = Defaults.frequency_penalty,
    repetition_penalty: flags.RepetitionPenalty = Defaults.repetition_penalty,
    history: Annotated[
        Path | None, typer.Option(help="File that keeps what you type for the arrow keys. Default: none.")
    ] = None,
    device: Device = EngineConfig.device,
    dtype: Dtype = EngineConfig.dtype,
    as_json: Annotated[bool, typer.Option("--json", help="Print what happens as one JSON object a line.")] = False,
    debug: Debug = False,
) -> None:
    """Chat with a model; adapters answer or check. /help in the chat lists its commands."""
    with reported(debug):
        EngineConfig(device=device, dtype=dtype)  # type: ignore[arg-type]  # raises now if they are none
        params = flags.sampling_params(ctx)
        folders = resolve_adapters(adapter or ())
        # torch comes in from here on, after everything that can be checked without it.
        from alorakit.bindings.cli.chat_file import load_chat
        from alorakit.bindings.cli.chat_input import LineEditor, piped_line, typed_line
        from alorakit.bindings.cli.chat_loop import ChatLoop
        from alorakit.bindings.cli.chat_session import ChatSession
        from alorakit.bindings.cli.chat_view import JsonView, TextView, terminal
        from alorakit.engine.engine import Engine

        with Engine.from_pretrained(model, device=device, dtype=dtype) as engine:
            add_adapters(engine, folders)
            session = ChatSession(engine, params, system)
            if load is not None:
                load_chat(session, load)
            typed = terminal() and not as_json
            view = JsonView() if as_json else TextView()
            loop = ChatLoop(session, view, typed_line if typed else piped_line, resumes=typed or as_json)
            if not typed:
                loop.run()
                if loop.failures:
                    raise typer.Exit(EXIT_BAD_INPUT)
                return
            typer.echo(f"{engine.model_name}; /help lists the commands, Ctrl-D leaves", err=True)
            with LineEditor(loop.words, history):
                loop.run()
