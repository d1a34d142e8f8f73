"""The benchmarks of a checkout: scripts in its folder ``benchmarks``, each run in a process of its own."""

import ast
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

QUICK = "quick"
_PREFIX = "bench_"
_QUICK_ABOUT = "A check with an aLoRA, with a LoRA and by reading again, and tokens per second; on any model folder."


def folder() -> Path | None:
    """The folder ``benchmarks`` beside this package's sources; None where alorakit was installed from a wheel."""
    found = Path(__file__).resolve().parents[2] / "benchmarks"
    return found if (found / "harness.py").is_file() else None


def benchmarks() -> dict[str, str]:
    """Every benchmark that can be run here, and its first line on what it is for."""
    here = folder()
    scripts = sorted(here.glob(f"{_PREFIX}*.py")) if here is not None else []
    return {QUICK: _QUICK_ABOUT} | {path.stem.removeprefix(_PREFIX): _about(path) for path in scripts}


def run_suite(names: Sequence[str], full: bool, as_json: bool) -> tuple[dict[str, Any], list[str]]:
    """Run benchmarks of the checkout one after another.

    Args:
        names: Which.
        full: At their full size, where they have one.
        as_json: Send what they print to stderr, as it is for people.

    Returns:
        By name, the JSON objects that each printed; and the names of those that failed.
    """
    here, failed = folder(), []
    results: dict[str, Any] = {}
    for name in names:
        assert here is not None, "a name that benchmarks() does not list"
        script = here / f"{_PREFIX}{name}.py"
        more = ["--full"] if full and '"--full"' in script.read_text(encoding="utf-8") else []
        typer.echo(f"== {name}", err=True)
        command = [sys.executable, "-m", f"benchmarks.{script.stem}", *more]
        with subprocess.Popen(command, cwd=here.parent, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            results[name] = []
            for line in process.stdout:
                typer.echo(line, nl=False, err=as_json)
                if line.startswith("{"):
                    results[name].append(json.loads(line))
        if process.returncode:
            failed.append(name)
    return results, failed


def _about(script: Path) -> str:
    told = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or ""
    return told.splitlines()[0] if told else ""
