"""Entry points ``m`` and ``alorakit``. A command's module is imported when it is asked for, so that help is quick."""

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from alorakit.bindings.cli.mellea_commands import MelleaGroup

# Module and function of every command, in the order of the help.
COMMANDS = {
    "train": "train.train",
    "eval": "eval.evaluate",
    "check": "check.check",
    "generate": "generate.generate",
    "chat": "chat.chat",
    "serve": "serve.serve",
    "info": "info.info",
    "upload": "upload.upload",
    "add-readme": "add_readme.add_readme",
    "import-gguf": "import_gguf.import_gguf",
    "bench": "bench.bench",
    "demo": "demo.demo",
}


class AloraGroup(TyperGroup):
    """The commands of alorakit, before whatever else was added to the group."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of the commands."""
        return [*COMMANDS, *super().list_commands(ctx)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A command by its name; None if there is none."""
        return alora_command(cmd_name) if cmd_name in COMMANDS else super().get_command(ctx, cmd_name)


def alora_command(name: str) -> Any:
    """One of :data:`COMMANDS`, as typer runs it; its module is imported now."""
    alone = typer.Typer(add_completion=False, rich_markup_mode=None)
    alone.command(name)(command_function(name))
    return typer.main.get_command(alone)


def command_function(name: str) -> Callable[..., None]:
    """The function behind one of :data:`COMMANDS`; its module is imported now."""
    module, function = COMMANDS[name].split(".")
    return getattr(import_module(f"alorakit.bindings.cli.{module}"), function)  # type: ignore[no-any-return]


def alora_app() -> typer.Typer:
    """The commands, as an app."""
    app = typer.Typer(cls=AloraGroup, no_args_is_help=True, rich_markup_mode=None)
    app.callback()(_alora)  # typer needs one where it knows no command
    return app


def m_app() -> typer.Typer:
    """The app behind ``m``: the commands below ``alora``, beside those of Mellea's ``m`` where Mellea is installed."""
    app = typer.Typer(cls=MelleaGroup, no_args_is_help=True, rich_markup_mode=None)
    app.callback()(_root)  # without it typer would drop the level of a single sub-app
    app.add_typer(alora_app(), name="alora")
    return app


def alorakit_app() -> typer.Typer:
    """The app behind ``alorakit``: the commands at the top and, as in ``m``, below ``alora``."""
    app = alora_app()
    app.add_typer(alora_app(), name="alora")
    return app


def _say_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"alorakit {version('alorakit')}")
        raise typer.Exit


Version = Annotated[bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Say it and exit.")]


def _alora(version: Version = False) -> None:
    """Train and use activated LoRA adapters."""


def _root(version: Version = False) -> None:
    """The command line of alorakit, and of Mellea where it is installed."""


def m() -> None:
    """Run ``m``."""
    m_app()()


def alorakit() -> None:
    """Run ``alorakit``."""
    alorakit_app()()
