"""``m alora add-readme``: the model card of an adapter folder, made again from what lies in it."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from alorakit.bindings.cli.errors import Debug, reported
from alorakit.bindings.cli.files import write_whole
from alorakit.bindings.paths import existing
from alorakit.engine.errors import AdapterError

_CARD, _BACKUP = "README.md", "README.md.bak"


def add_readme(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Adapter folder.")],
    basemodel: Annotated[str | None, typer.Option(help="Base model to name. Default: the folder's.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help=f"Replace a card that somebody wrote; it is kept as {_BACKUP}.")
    ] = False,
    ask: Annotated[bool, typer.Option("--ask", help="Show the card, and ask before it is written.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the card and write nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, the card in it.")] = False,
    debug: Debug = False,
) -> None:
    """Write the model card, README.md, from alorakit.json, training.json and adapter_config.json."""
    with reported(debug):
        path = existing(folder)
        if path is None or not path.is_dir():
            raise AdapterError(f"{folder} is not a folder; give the folder that training wrote")
        from alorakit.training.card_again import card_of

        card = card_of(path, basemodel)
        if ask or (dry_run and not as_json):
            typer.echo(card, nl=False, err=as_json)
        replaced = not dry_run and _check_old(path, card, force)
        if not dry_run:
            if ask and not typer.confirm(f"Write this to {path / _CARD}?", err=as_json):
                raise typer.Exit(1)
            _write(path, card, replaced)
        if as_json:
            report = {"path": str(path / _CARD), "written": not dry_run, "kept": _BACKUP if replaced else None}
            typer.echo(json.dumps({**report, "card": card}, ensure_ascii=False))
        elif not dry_run:
            typer.echo(f"wrote {path / _CARD}{f', and kept the old one as {_BACKUP}' if replaced else ''}")


def _write(folder: Path, card: str, replaced: bool) -> None:
    if replaced:  # a copy: whatever happens while the new card is written, there is one
        write_whole(folder / _BACKUP, (folder / _CARD).read_bytes(), "make the folder writable")
    write_whole(folder / _CARD, card.encode(), "make the folder writable")


def _check_old(folder: Path, card: str, force: bool) -> bool:
    """Whether somebody's own card is to be put aside.

    Raises:
        AdapterError: There is one, and nothing says that it may be; or another lies where it would be kept.
    """
    from alorakit.training.card_mark import is_untouched

    path = folder / _CARD
    if not path.exists():
        return False
    if not path.is_file():
        raise AdapterError(f"{path} is not a file; move it away, so that the card can be written")
    old = path.read_text(encoding="utf-8", errors="replace")
    if is_untouched(old) or old == card:
        return False
    if not force:
        raise AdapterError(
            f"{path} was written or changed by hand; give --force to replace it (it is kept as {_BACKUP}), or "
            "--dry-run to see the new one"
        )
    if os.path.lexists(folder / _BACKUP):
        raise AdapterError(f"{folder / _BACKUP} is there already, and would be lost; move it away")
    return True
