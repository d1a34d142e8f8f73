"""The other commands of Mellea's ``m`` (``serve``, ``decompose`` …), mounted beside ours where Mellea is installed."""

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from alorakit.bindings.cli.errors import EXIT_BAD_INPUT


class MelleaGroup(TyperGroup):
    """Our own commands, then Mellea's; Mellea is imported when its commands are listed or one of them is asked for.

    A Mellea whose command line cannot be imported is left out of lists, and told of when a command of its is asked for.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of our commands, then of Mellea's."""
        own = super().list_commands(ctx)
        group, _ = mellea_group()
        return own if group is None else [*own, *(name for name in group.list_commands(ctx) if name not in own)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A command by its name, ours before Mellea's; None if there is none."""
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own
        group, problem = mellea_group()
        if problem and not ctx.resilient_parsing:  # it is true while a shell asks for completions
            typer.echo(f"warning: {problem}, so there is no 'm {cmd_name}'", err=True)
            raise typer.Exit(EXIT_BAD_INPUT)
        return None if group is None else group.get_command(ctx, cmd_name)


@cache
def mellea_group() -> tuple[Any, str]:
    """Mellea's ``m`` as a group of commands, or None; and why there is none although Mellea is installed, or ""."""
    mellea, cli = _folder("mellea"), _folder("cli")
    if mellea is None:
        return None, ""
    if cli is None or cli.parent != mellea.parent:
        # Its package has a name that anybody's may have, and a stranger's is not run.
        return None, f"mellea is installed in {mellea.parent}, but its package 'cli' is not found there"
    try:
        return typer.main.get_command(import_module("cli.m").cli), ""
    except (Exception, SystemExit) as exc:
        told = " ".join(f"{type(exc).__name__}: {exc}".split())
        return None, f"mellea is installed, but its commands cannot be imported ({told:.200})"


def _folder(package: str) -> Path | None:
    """Where an importable package lies, without importing it."""
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):  # a module of that name that was put together by hand
        return None
    return None if spec is None or not spec.origin else Path(spec.origin).resolve().parent
