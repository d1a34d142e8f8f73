"""The benchmarks of a checkout: the suite and its parts, and single scripts, each run in a process of its own."""

import ast
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from alorakit.bindings.paths import existing
from alorakit.engine.errors import ConfigError

SCRIPT = "bench_"
SUITE = "suite"
FULL_ONLY = "part of the suite without --quick"
# Asked of a process of its own: this layer imports no benchmarks, and they import torch.
_ASK = (
    "import json; from benchmarks.suite.run import parts; from benchmarks.suite.setup import FULL, QUICK; "
    "print(json.dumps([list(parts(FULL)), list(parts(QUICK))]))"
)


@dataclass(frozen=True)
class SuiteRun:
    """How to run benchmarks of the checkout.

    Attributes:
        small: Few sizes.
        model: Of the suite: Hub id or folder.
        device: Of the suite, as in ``EngineConfig``.
        dtype: Of the suite, as in ``EngineConfig``.
        out: Of the suite: folder for its results; None: the checkout's own.
        as_json: Send what is printed to stderr, as it is for people.
    """

    small: bool
    model: str
    device: str
    dtype: str
    out: Path | None
    as_json: bool


def root() -> Path | None:
    """The folder that holds ``benchmarks`` beside this package's sources; None where alorakit came as a wheel."""
    found = Path(__file__).resolve().parents[2]
    return found if (found / "benchmarks" / "suite" / "run.py").is_file() else None


def listed() -> dict[str, str]:
    """What can be run here, and what it is; empty where there is no checkout.

    Raises:
        ConfigError: The checkout's benchmarks cannot be imported.
    """
    here = root()
    if here is None:
        return {}
    scripts = sorted((here / "benchmarks").glob(f"{SCRIPT}*.py"))
    done = subprocess.run([sys.executable, "-c", _ASK], cwd=here, capture_output=True, text=True, check=False)
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ConfigError(
            f"the benchmarks in {here} cannot be imported ({why}); install the extra 'test' there, pip install -e "
            "'.[test]', or run m alora bench quick, which needs none of it"
        )
    full, quick = json.loads(done.stdout.splitlines()[-1])
    parts = {name: "part of the suite" if name in quick else FULL_ONLY for name in full}
    return parts | {path.stem: _about(path) for path in scripts}


def run_benchmarks(names: Sequence[str], how: SuiteRun) -> tuple[dict[str, Any], list[str]]:
    """Run parts of the suite together, then scripts one after another.

    Args:
        names: Of :func:`listed`; none: the whole suite.
        how: How.

    Returns:
        The JSON objects that each printed, those of the suite's parts under ``suite``; and what failed.
    """
    here = root()
    assert here is not None, "there is something to run"
    scripts = [name for name in names if name.startswith(SCRIPT)]
    parts = [name for name in names if name not in scripts]
    commands: dict[str, list[str]] = {}
    if parts or not names:
        folder = existing(how.model)
        model = how.model if folder is None else str(folder.resolve())
        commands[SUITE] = ["benchmarks.suite.run", "--model", model, "--device", how.device, "--dtype", how.dtype]
        commands[SUITE] += ["--quick"] if how.small else []
        commands[SUITE] += ["--only", ",".join(parts)] if parts else []
        commands[SUITE] += ["--out", str(how.out.resolve())] if how.out is not None else []
    for name in scripts:
        knows = '"--full"' in (here / "benchmarks" / f"{name}.py").read_text(encoding="utf-8")
        commands[name] = [f"benchmarks.{name}", *(["--full"] if knows and not how.small else [])]
    found: dict[str, Any] = {}
    failed: list[str] = []
    for name, command in commands.items():
        found[name], code = _run(command, here, how.as_json)
        failed += [name] if code else []
    return found, failed


def _run(command: list[str], here: Path, as_json: bool) -> tuple[list[Any], int]:
    found = []
    with subprocess.Popen([sys.executable, "-m", *command], cwd=here, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            typer.echo(line, nl=False, err=as_json)
            if line.startswith("{"):
                found.append(json.loads(line))
    return found, process.returncode


def _about(script: Path) -> str:
    told = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or ""
    return told.splitlines()[0] if told else ""
