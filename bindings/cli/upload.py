"""``m alora upload``: an adapter folder becomes a repository of the Hub, in one commit."""

import json
import re
import sys
from dataclasses import asdict
from logging import ERROR
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alorakit.bindings.cli.errors import Debug, reported
from alorakit.bindings.cli.options import AsJson
from alorakit.bindings.paths import existing
from alorakit.engine.errors import AdapterError, ConfigError

if TYPE_CHECKING:
    from alorakit.bindings.cli.upload_plan import Plan

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_BRANCH = re.compile(r"(?!.*(?:\.\.|//|/\.))[A-Za-z0-9][\w./-]*(?<![./])")
_PART = re.compile(r"[A-Za-z0-9][\w.-]*")


def upload(
    weight_path: Annotated[Path, typer.Argument(metavar="DIR", help="Adapter folder; nothing in it is changed.")],
    name: Annotated[str, typer.Option(help="Repository to upload to: org/name. It is made if it is not there.")],
    intrinsic: Annotated[
        bool, typer.Option("--intrinsic", help="Lay it out as Mellea looks for it: <intrinsic>/<base>/<lora|alora>/.")
    ] = False,
    io_yaml: Annotated[
        Path | None, typer.Option(help="Mellea's contract for the adapter. Default: the folder's io.yaml.")
    ] = None,
    intrinsic_name: Annotated[
        str | None, typer.Option(help="The <intrinsic> of the layout. Default: the repository's name.")
    ] = None,
    basemodel: Annotated[
        str | None, typer.Option(help="Hub id of the base model, where the folder names a local path.")
    ] = None,
    private: Annotated[
        bool | None,
        typer.Option("--private/--public", help="Default: private if it is made, as it is if it is there."),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch to commit to. Default: main.")] = None,
    message: Annotated[str | None, typer.Option(help="The commit's message.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the folder and say what goes where; no network.")
    ] = (False),
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Upload an adapter to the Hugging Face Hub, in one commit. The token: HF_TOKEN, or hf auth login."""
    with reported(debug):
        inside = _inside(name, intrinsic, intrinsic_name)
        if revision is not None and (re.fullmatch("[0-9a-f]{40}", revision) or not _BRANCH.fullmatch(revision)):
            raise ConfigError(f"--revision {revision!r} is no branch, and only a branch can be committed to; name one")
        folder = existing(weight_path)
        if folder is None or not folder.is_dir():
            raise AdapterError(f"{weight_path} is not a folder; give the folder that training wrote")
        from alorakit.bindings.cli.upload_plan import plan_upload

        plan = plan_upload(folder, inside, io_yaml, basemodel)
        report = _planned(plan, name, revision, dry_run)
        if not as_json:
            _show(plan, report)
        if not dry_run:
            report |= _send(plan, name, private, revision, message, quiet=as_json)
        if as_json:
            typer.echo(json.dumps(report, ensure_ascii=False))
        elif dry_run:
            typer.echo("dry run: nothing was sent")
        else:
            made = f"made {name} ({'private' if report['private'] else 'public'}), " if report["created"] else ""
            typer.echo(f"{made}commit {report['oid'][:12]}: {report['url']}")


def _inside(name: str, intrinsic: bool, intrinsic_name: str | None) -> str | None:
    """Name of the adapter function, if the layout has one."""
    if not _NAME.fullmatch(name):
        raise ConfigError(f"--name {name!r} is no repository; give org/name, such as acme/carbchecker-alora")
    if not intrinsic:
        if intrinsic_name is not None:
            raise ConfigError("--intrinsic-name is part of the layout that --intrinsic makes; give both")
        return None
    inside = intrinsic_name or name.split("/")[1]
    if not _PART.fullmatch(inside):
        raise ConfigError(f"--intrinsic-name {inside!r} is no folder's name; use letters, digits, '.', '_' and '-'")
    return inside


def _planned(plan: "Plan", name: str, revision: str | None, dry_run: bool) -> dict[str, Any]:
    return {
        "name": name,
        "revision": revision or "main",
        "kind": plan.kind,
        "base_model": plan.base_model,
        "folder": plan.folder,
        "files": {path: len(content) for path, content in sorted(plan.files.items())},
        "left_out": list(plan.left_out),
        "warnings": list(plan.warnings),
        "dry_run": dry_run,
    }


def _show(plan: "Plan", report: dict[str, Any]) -> None:
    kind = {"alora": "activated LoRA", "lora": "LoRA"}[plan.kind]
    typer.echo(f"{kind} for {plan.base_model} -> {report['name']}, branch {report['revision']}")
    for path, size in report["files"].items():
        typer.echo(f"  {size:>12,} bytes  {path}")
    if plan.left_out:
        typer.echo(f"not uploaded: {', '.join(plan.left_out)}")
    for warning in plan.warnings:
        typer.echo(f"warning: {warning}", err=True)


def _send(
    plan: "Plan", name: str, private: bool | None, revision: str | None, message: str | None, quiet: bool
) -> dict[str, Any]:
    from huggingface_hub.utils import disable_progress_bars, logging  # type: ignore[attr-defined]

    from alorakit.bindings.cli.hub_commit import Repository

    logging.set_verbosity(ERROR)  # a try that failed is no news if the next one does not
    if quiet or not sys.stderr.isatty():
        disable_progress_bars()
    repository = Repository(name, revision)
    repository.open(private)
    kind = {"alora": "activated LoRA", "lora": "LoRA"}[plan.kind]
    told = message or f"Upload {kind} for {plan.base_model}"
    card = {} if plan.root_card is None else {"README.md": plan.root_card}
    return asdict(repository.commit(plan.files, told, plan.stale, card))
