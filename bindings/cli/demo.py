"""``m alora demo``: what it is called with; ``demo_run`` is the tour itself."""

import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from alorakit.bindings.cli.errors import Debug, reported


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the demo's data and adapters.")] = Path("checkpoints"),
    seed: Annotated[int, typer.Option(help="Decides the rows and the training.")] = 0,
    retrain: Annotated[bool, typer.Option("--retrain", help="Train even if the adapter is there already.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print demo.json; the tour goes to stderr.")] = False,
    debug: Debug = False,
) -> None:
    """Train on generated failure notes, then check with the adapter: the whole tour in minutes."""
    with reported(debug):
        from alorakit.bindings.cli.demo_run import run_demo

        if not as_json:
            run_demo(out, seed, retrain=retrain)
            return
        with redirect_stdout(sys.stderr):
            figures = run_demo(out, seed, retrain=retrain)
        typer.echo(json.dumps(figures, ensure_ascii=False))
