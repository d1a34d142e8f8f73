"""``m alora bench``: a quick benchmark of a model and an adapter, or the suite of a checkout."""

import json
import sys
from typing import Annotated

import typer

from alorakit.bindings.cli.adapters import ADAPTER_HELP, split_name
from alorakit.bindings.cli.bench_suite import QUICK, benchmarks, run_suite
from alorakit.bindings.cli.errors import EXIT_UNEXPECTED, Debug, reported
from alorakit.engine.config import EngineConfig
from alorakit.engine.errors import ConfigError
from alorakit.engine.pretrained import DEMO_MODEL, resolve_adapter

CONTEXT, ROUNDS = 512, 5


def bench(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help=f"Benchmarks, see --list. Default: {QUICK}, which needs no checkout."),
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="List the benchmarks.")] = False,
    full: Annotated[
        bool, typer.Option("--full", help="All of the checkout's, or the named ones, at full size: hours.")
    ] = False,
    model: Annotated[str, typer.Option(help=f"Of {QUICK}: base model, Hub id or folder.")] = DEMO_MODEL,
    adapter: Annotated[
        str | None, typer.Option(help=f"Of {QUICK}: activated LoRA; random weights without. {ADAPTER_HELP}.")
    ] = None,
    context: Annotated[int, typer.Option(help=f"Of {QUICK}: tokens that the base model has read.")] = CONTEXT,
    rounds: Annotated[int, typer.Option(help=f"Of {QUICK}: rounds that count.")] = ROUNDS,
    device: Annotated[str, typer.Option(help=f"Of {QUICK}: auto, cpu, cuda or mps.")] = EngineConfig.device,
    dtype: Annotated[str, typer.Option(help=f"Of {QUICK}: auto, bfloat16, float32.")] = EngineConfig.dtype,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    debug: Debug = False,
) -> None:
    """Measure what a check costs, and how fast tokens come; or run the benchmarks of a checkout."""
    with reported(debug):
        EngineConfig(device=device, dtype=dtype)  # type: ignore[arg-type]  # raises now if they are none
        for name, value in (("context", context), ("rounds", rounds)):
            if value < 1:
                raise ConfigError(f"{name}={value} must be at least 1")
        known = benchmarks()
        chosen = names or ([name for name in known if name != QUICK] if full else [QUICK])
        if listed:
            lines = [f"{name:<12} {about}" for name, about in known.items()]
            typer.echo(json.dumps(known, ensure_ascii=False) if as_json else "\n".join(lines))
            return
        if unknown := [name for name in chosen if name not in known]:
            raise ConfigError(f"no benchmark {', '.join(map(repr, unknown))}; here are {', '.join(known)}")
        if not chosen:
            raise ConfigError("--full runs the benchmarks of a checkout of alorakit, and this is none; leave it out")
        found = {}
        if QUICK in chosen:
            folder = None if adapter is None else resolve_adapter(split_name(adapter)[1])
            from alorakit.bindings.cli.bench_quick import measure

            report = measure(model, folder, context, rounds, device, dtype, sys.stderr)
            found[QUICK] = report.to_json()
            if not as_json:
                report.print()
        suite = [name for name in chosen if name != QUICK]
        results, failed = run_suite(suite, full, as_json)
        if as_json:
            typer.echo(json.dumps(found | results, ensure_ascii=False))
        if failed:
            typer.echo(f"error: {', '.join(failed)} failed; what they printed says why", err=True)
            raise typer.Exit(EXIT_UNEXPECTED)
