"""``m alora bench``: the benchmark suite of a checkout, or a quick benchmark of any model and adapter."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from alorakit.bindings.cli.adapters import ADAPTER_HELP, split_name
from alorakit.bindings.cli.bench_suite import FULL_ONLY, SuiteRun, listed, root, run_benchmarks
from alorakit.bindings.cli.errors import EXIT_UNEXPECTED, Debug, reported
from alorakit.bindings.cli.options import AsJson, Device, Dtype
from alorakit.engine.config import EngineConfig
from alorakit.engine.errors import ConfigError
from alorakit.engine.pretrained import DEMO_MODEL, resolve_adapter

QUICK = "quick"
QUICK_ABOUT = "a check by aLoRA, by LoRA and by reading again, and tokens/s; any model and adapter, no checkout"
CONTEXT, ROUNDS = 512, 5
OUT = Path("bench-results")


def bench(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME",
            help=f"Benchmarks, see --list. Default: in a checkout without --adapter the suite, else {QUICK}.",
        ),
    ] = None,
    only_list: Annotated[bool, typer.Option("--list", help="List the benchmarks.")] = False,
    small: Annotated[
        bool,
        typer.Option(
            "--quick", help="Few sizes: the suite takes 3 minutes; else half an hour, and it writes the docs."
        ),
    ] = False,
    model: Annotated[str, typer.Option(help="Base model: Hub id or folder.")] = DEMO_MODEL,
    adapter: Annotated[
        str | None, typer.Option(help=f"Of {QUICK}: activated LoRA; random weights without. {ADAPTER_HELP}.")
    ] = None,
    context: Annotated[int, typer.Option(help=f"Of {QUICK}: tokens that the base model has read.")] = CONTEXT,
    rounds: Annotated[int, typer.Option(help=f"Of {QUICK}: rounds that count.")] = ROUNDS,
    device: Device = EngineConfig.device,
    dtype: Dtype = EngineConfig.dtype,
    out: Annotated[
        Path | None,
        typer.Option(help=f"Of the suite: folder for results. Default: {OUT}; of the whole suite, the checkout's own."),
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Measure what checks cost and how fast tokens come: this model and adapter, or all that the suite compares."""
    with reported(debug):
        EngineConfig(device=device, dtype=dtype)  # type: ignore[arg-type]  # raises now if they are none
        for name, value in (("context", context), ("rounds", rounds)):
            if value < 1:
                raise ConfigError(f"{name}={value} must be at least 1")
        if only_list:
            known = {QUICK: QUICK_ABOUT, **_of_checkout()}
            lines = [f"{name:<17} {about}" for name, about in known.items()]
            typer.echo(json.dumps(known, ensure_ascii=False) if as_json else "\n".join(lines))
            return
        quick, others = _chosen(names or [], small, adapter)
        found: dict[str, Any] = {}
        if quick:
            folder = None if adapter is None else resolve_adapter(split_name(adapter)[1])
            from alorakit.bindings.cli.bench_quick import measure

            report = measure(model, folder, context, rounds, device, dtype, sys.stderr)
            found[QUICK] = report.to_json()
            if not as_json:
                report.print()
        failed: list[str] = []
        if others is not None:
            kept = OUT if out is None and (small or others) else out
            results, failed = run_benchmarks(others, SuiteRun(small, model, device, dtype, kept, as_json))
            found |= results
        if as_json:
            typer.echo(json.dumps(found, ensure_ascii=False))
        if failed:
            typer.echo(f"error: {', '.join(failed)} failed; what was printed says why", err=True)
            raise typer.Exit(EXIT_UNEXPECTED)


def _of_checkout() -> dict[str, str]:
    """What the checkout has; where it cannot be imported, a note says why, and the quick one is still listed."""
    try:
        return listed()
    except ConfigError as exc:
        typer.echo(f"note: {exc}", err=True)
        return {}


def _chosen(names: list[str], small: bool, adapter: str | None) -> tuple[bool, list[str] | None]:
    """Whether to run the quick one, and what of the checkout: None for nothing, an empty list for the suite.

    Raises:
        ConfigError: There is no benchmark of a name, or no checkout, or the checkout's cannot be imported.
    """
    others = [name for name in names if name != QUICK]
    if not names and root() is not None and adapter is None:
        listed()  # raises now, on one line, where the suite cannot be imported
        return False, []
    if others:
        known = listed()
        if unknown := [name for name in others if name not in known]:
            raise ConfigError(f"no benchmark {', '.join(map(repr, unknown))}; here are {', '.join([QUICK, *known])}")
        if small and (large := [name for name in others if known[name] == FULL_ONLY]):
            raise ConfigError(f"{', '.join(large)}: {FULL_ONLY}; leave that out")
    return QUICK in names or not names, others or None
