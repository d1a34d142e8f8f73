"""``m alora serve``: a model and its adapters behind OpenAI's interface."""

import json
import os
from collections.abc import Iterable
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alorakit.bindings.cli.adapters import split_name
from alorakit.bindings.cli.errors import Debug, reported
from alorakit.bindings.server.config import ServerConfig
from alorakit.engine.config import EngineConfig
from alorakit.engine.errors import ConfigError

if TYPE_CHECKING:
    from alorakit.engine.async_engine import AsyncEngine

_SERVER, _MODEL, _LIMITS = "Server", "Model", "Limits"
_ENGINE_FIELDS = ("dtype", "device", "memory_fraction", "max_model_len", "max_waiting", "compile", "revision")


def serve(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(help="Base model: Hub id or folder.")],
    adapter: Annotated[
        list[str] | None,
        typer.Option(help="PLACE or NAME=PLACE: an adapter to begin with, a folder or one of the Hub; repeatable."),
    ] = None,
    served_model_name: Annotated[
        str | None, typer.Option(help="What clients call the base model. Default: as it was given here.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; all but loopback need a key.", rich_help_panel=_SERVER)
    ] = ServerConfig.host,
    port: Annotated[int, typer.Option(help="Port; 0: any free one.", rich_help_panel=_SERVER)] = ServerConfig.port,
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            help="Key that clients must send; may be repeated. Better in ALORAKIT_API_KEYS (with commas between), "
            "since others on this machine can read a command line.",
            rich_help_panel=_SERVER,
        ),
    ] = None,
    admin_key: Annotated[
        str | None,
        typer.Option(
            help="Key that may load and unload adapters; without one nobody may. Better in ALORAKIT_ADMIN_KEY.",
            rich_help_panel=_SERVER,
        ),
    ] = None,
    adapter_folder: Annotated[
        list[str] | None,
        typer.Option(help="Folder below which adapters may be loaded over HTTP; repeatable.", rich_help_panel=_SERVER),
    ] = None,
    adapter_repo: Annotated[
        list[str] | None,
        typer.Option(
            help="Hub repository that adapters may be loaded from over HTTP: org/name or org/*; repeatable.",
            rich_help_panel=_SERVER,
        ),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            help="Host that the server answers for beside loopback, such as a proxy's; repeatable. Default: any, but "
            "none on loopback without keys.",
            rich_help_panel=_SERVER,
        ),
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(
            help="Origin whose pages may call the server; repeatable. Default: none.", rich_help_panel=_SERVER
        ),
    ] = None,
    log_prompts: Annotated[
        bool, typer.Option("--log-prompts", help="Write prompts and answers to the log.", rich_help_panel=_SERVER)
    ] = ServerConfig.log_prompts,
    trust_special_tokens: Annotated[
        bool,
        typer.Option(
            "--trust-special-tokens",
            help="Read special tokens in messages as such, so that clients can write turns of any role.",
            rich_help_panel=_SERVER,
        ),
    ] = ServerConfig.trust_special_tokens,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Most tokens a request may ask for.", rich_help_panel=_LIMITS)
    ] = ServerConfig.max_new_tokens,
    default_max_tokens: Annotated[
        int | None,
        typer.Option(help="Tokens where a request names no number. Default: all that fit.", rich_help_panel=_LIMITS),
    ] = ServerConfig.default_max_tokens,
    max_waiting: Annotated[
        int, typer.Option(help="Most sequences that wait; beyond it: 429.", rich_help_panel=_LIMITS)
    ] = EngineConfig.max_waiting,
    max_body_bytes: Annotated[
        int, typer.Option(help="Longest request body.", rich_help_panel=_LIMITS)
    ] = ServerConfig.max_body_bytes,
    max_connections: Annotated[
        int, typer.Option(help="Most open connections.", rich_help_panel=_LIMITS)
    ] = ServerConfig.max_connections,
    read_timeout_s: Annotated[
        float, typer.Option(help="Seconds for a request's head, and for its body.", rich_help_panel=_LIMITS)
    ] = ServerConfig.read_timeout_s,
    request_timeout_s: Annotated[
        float, typer.Option(help="Seconds until a request is given up.", rich_help_panel=_LIMITS)
    ] = ServerConfig.request_timeout_s,
    drain_s: Annotated[
        float,
        typer.Option(help="Seconds that running requests get after SIGTERM or Ctrl+C.", rich_help_panel=_LIMITS),
    ] = ServerConfig.drain_s,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.", rich_help_panel=_MODEL)] = EngineConfig.device,
    dtype: Annotated[
        str, typer.Option(help="Compute type: auto, bfloat16 or float32.", rich_help_panel=_MODEL)
    ] = EngineConfig.dtype,
    memory_fraction: Annotated[
        float | None,
        typer.Option(
            help="Share of the free memory for the KV cache. Default: 0.8 on a GPU, else 0.25.", rich_help_panel=_MODEL
        ),
    ] = EngineConfig.memory_fraction,
    max_model_len: Annotated[
        int | None, typer.Option(help="Longest sequence in tokens. Default: the model's limit.", rich_help_panel=_MODEL)
    ] = EngineConfig.max_model_len,
    compile: Annotated[
        bool, typer.Option("--compile", help="Compile the decoder (CPU only).", rich_help_panel=_MODEL)
    ] = EngineConfig.compile,
    revision: Annotated[
        str | None, typer.Option(help="Hub revision of the model.", rich_help_panel=_MODEL)
    ] = EngineConfig.revision,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object when ready.")] = False,
    debug: Debug = False,
) -> None:
    """Serve a model and its adapters over HTTP, as OpenAI's interface has it; the log goes to stderr as JSON lines.

    Ctrl+C or SIGTERM: what runs is answered, nothing new is taken, then it ends. A second one ends it at once.
    """
    with reported(debug):
        config = ServerConfig(**_settings(ctx.params))
        adapters = _adapters(adapter or ())
        from alorakit.bindings.server import check_installed

        check_installed()
        from alorakit.bindings.server import run
        from alorakit.bindings.server.logs import log_as_json

        log_as_json()

        def ready(url: str, engine: "AsyncEngine") -> None:
            name = config.served_model_name or engine.model_name
            found = {"url": url, "model": name, "adapters": [*engine.adapters], "pid": os.getpid()}
            lines = [f"{name} at {url}, where browsers find a page", *(f"  adapter {each}" for each in engine.adapters)]
            typer.echo(json.dumps(found) if as_json else "\n".join(lines))

        run.serve(model, config, adapters, ready, **{name: ctx.params[name] for name in _ENGINE_FIELDS})


def _settings(params: dict[str, Any]) -> dict[str, Any]:
    """The server's settings out of the options; a list that was not given is left to its default or environment."""
    lists = {"api_key": "api_keys", "adapter_folder": "adapter_folders", "adapter_repo": "adapter_repos"}
    lists |= {"cors_origin": "cors_origins", "allowed_host": "allowed_hosts"}
    found = {lists.get(name, name): value for name, value in params.items() if name not in lists or value}
    known = {field.name for field in fields(ServerConfig)}
    chosen = {name: value for name, value in found.items() if name in known}
    return {name: value for name, value in chosen.items() if name != "admin_key" or value is not None}


def _adapters(given: Iterable[str]) -> dict[str, str]:
    """Adapters to begin with: where each lies, by name."""
    found: dict[str, str] = {}
    for text in given:
        name, place = split_name(text)
        if name in found:
            raise ConfigError(f"--adapter names {name!r:.200} twice; give each a name of its own: NAME=PLACE")
        found[name] = place
    return found
