"""Entry points ``m`` and ``alorakit``. Importing this loads no torch, so that ``--help`` answers at once."""

from pathlib import Path
from typing import Annotated

import typer

from alorakit.bindings.cli.add_readme import add_readme
from alorakit.bindings.cli.check import check
from alorakit.bindings.cli.errors import Debug, reported
from alorakit.bindings.cli.eval import evaluate
from alorakit.bindings.cli.import_gguf import import_gguf
from alorakit.bindings.cli.info import info
from alorakit.bindings.cli.serve import serve
from alorakit.bindings.cli.train import train
from alorakit.bindings.cli.upload import upload


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the demo's data and adapters.")] = Path("checkpoints"),
    seed: Annotated[int, typer.Option(help="Decides the rows and the training.")] = 0,
    retrain: Annotated[bool, typer.Option("--retrain", help="Train even if the adapter is there already.")] = False,
    debug: Debug = False,
) -> None:
    """Train on generated failure notes, then check with the adapter: the whole tour in minutes."""
    with reported(debug):
        from alorakit.bindings.cli.demo import run_demo

        run_demo(out, seed, retrain=retrain)


def alora_app() -> typer.Typer:
    """The commands, as an app."""
    app = typer.Typer(help="Train and use activated LoRA adapters.", no_args_is_help=True)
    for command in (train, check, serve, demo, info, upload, add_readme, import_gguf):
        app.command()(command)
    app.command("eval")(evaluate)
    return app


def m_app() -> typer.Typer:
    """The app behind ``m``: the commands below ``alora``, beside whatever else Mellea's ``m`` has."""
    app = typer.Typer(no_args_is_help=True, add_completion=False)
    app.callback()(_root)  # without it typer would drop the level of a single sub-app
    app.add_typer(alora_app(), name="alora")
    return app


def alorakit_app() -> typer.Typer:
    """The app behind ``alorakit``: the commands at the top and, as in ``m``, below ``alora``."""
    app = alora_app()
    app.add_typer(alora_app(), name="alora")
    return app


def _root() -> None:
    """The command line of alorakit."""


def m() -> None:
    """Run ``m``."""
    m_app()()


def alorakit() -> None:
    """Run ``alorakit``."""
    alorakit_app()()
