"""``m alora eval``: how well an adapter answers rows it was not trained on, and what a check costs."""

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alorakit.bindings.adapter_names import adapter_name
from alorakit.bindings.cli.adapters import ADAPTER_HELP
from alorakit.bindings.cli.check import base_model
from alorakit.bindings.cli.errors import Debug, reported
from alorakit.bindings.cli.files import write_whole
from alorakit.bindings.cli.options import Device, Dtype
from alorakit.bindings.cli.progress import ProgressDisplay
from alorakit.bindings.paths import existing
from alorakit.engine.adapter_config import AdapterConfig
from alorakit.engine.config import EngineConfig
from alorakit.engine.errors import ConfigError, DataError, TrainingError
from alorakit.engine.pretrained import resolve_adapter
from alorakit.training.config import ProgressEvent

if TYPE_CHECKING:
    from alorakit.bindings.cli.eval_rows import RowSettings

JSON_NAME, PNG_NAME = "eval.json", "eval.png"
MAX_LENGTH = 1024
NamedFolder = tuple[str, Path]
_REMEDY = "give another folder with --outdir"


def evaluate(
    datafile: Annotated[Path, typer.Argument(help="JSON lines, as for training; rows that training never saw.")],
    adapter: Annotated[str, typer.Option(help=f"{ADAPTER_HELP}.")],
    against: Annotated[str | None, typer.Option(help="Another adapter, asked the same rows.")] = None,
    basemodel: Annotated[str | None, typer.Option(help="Base model; default: the one the adapter names.")] = None,
    outdir: Annotated[
        Path | None, typer.Option(help="Folder for eval.json and eval.png; default: eval-<adapter> in this folder.")
    ] = None,
    device: Device = EngineConfig.device,
    dtype: Dtype = EngineConfig.dtype,
    max_length: Annotated[int, typer.Option(help="Most tokens of a row; a longer item is cut from the left.")] = (
        MAX_LENGTH
    ),
    requirement_field: Annotated[
        str | None, typer.Option(help="Field of a row that holds its requirement; default: requirement.")
    ] = None,
    field: Annotated[str | None, typer.Option(help="Of JSON answers: the field to count accuracy by.")] = None,
    limit: Annotated[int | None, typer.Option(help="Use the first so many rows.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print eval.json instead of the tables.")] = False,
    debug: Debug = False,
) -> None:
    """Evaluate an adapter beside its base model: accuracy, classes, calibration, cost of a check."""
    with reported(debug):
        EngineConfig(device=device, dtype=dtype)  # type: ignore[arg-type]  # raises now if they are none
        for name, value in (("max_length", max_length), ("limit", limit)):
            if value is not None and value < 1:
                raise ConfigError(f"{name}={value} must be at least 1")
        rows = existing(datafile)
        if rows is None or not rows.is_file():
            raise DataError(f"{datafile} is not a file; give JSON lines, each with strings 'item' and 'label'")
        adapters = [_adapter(place) for place in (adapter, *([against] if against is not None else []))]
        target = _target(outdir, adapters)
        base = basemodel or base_model(adapters[0][1])
        # torch comes in from here on, after everything that can be checked without it.
        from alorakit.bindings.cli.eval_rows import RowSettings

        settings = RowSettings(rows, max_length, requirement_field, limit, field)
        _run(base, adapters, settings, target, device, dtype, as_json)


def _run(
    base: str,
    adapters: list[NamedFolder],
    settings: "RowSettings",
    target: Path,
    device: str,
    dtype: str,
    as_json: bool,
) -> None:
    from alorakit.bindings.cli.eval_measure import answer_all, check_costs
    from alorakit.bindings.cli.eval_report import report_of
    from alorakit.bindings.cli.eval_rows import lay_out
    from alorakit.engine.engine import Engine

    engine = Engine.from_pretrained(base, device=device, dtype=dtype)
    try:
        answers, contenders = lay_out(engine, adapters, settings)
        with ProgressDisplay(sys.stderr) as display:
            costs = check_costs(
                engine,
                answers,
                contenders,
                lambda done, total: display(ProgressEvent("cost", done, total, "checks timed")),
            )
            found = answer_all(
                engine, answers, contenders, lambda done, total: display(ProgressEvent("evaluate", done, total, "rows"))
            )
        temperature = engine.adapters["adapter"].temperature
    finally:
        engine.close()
    report = report_of(settings.data.name, Path(base).name, answers, temperature, contenders, found, costs)
    files = {JSON_NAME: report.to_json().encode(), PNG_NAME: report.to_png()}
    for name, content in files.items():
        write_whole(target / name, content, _REMEDY)
    if as_json:
        typer.echo(files[JSON_NAME].decode(), nl=False)
        return
    cut = f", {contenders[0].truncated} rows of the file cut from the left to fit" if contenders[0].truncated else ""
    typer.echo(f"{settings.data.name}: {len(contenders[0].examples)} rows{cut}")
    report.print()
    typer.echo(f"wrote {target / JSON_NAME} and {target / PNG_NAME}")


def _adapter(place: str) -> NamedFolder:
    folder = resolve_adapter(place)
    AdapterConfig.load(folder)
    return adapter_name(place), folder


def _target(outdir: Path | None, adapters: list[NamedFolder]) -> Path:
    """The folder to write to, tried now: the end of a long run is no time to find that it cannot be written."""
    given = outdir if outdir is not None else Path(f"eval-{adapters[0][0]}")
    try:
        target = given.expanduser()
        if any(target.resolve().is_relative_to(folder.resolve()) for _, folder in adapters):
            raise ConfigError(f"outdir={given} is in the adapter's folder, which an evaluation leaves alone; {_REMEDY}")
        missing = [folder for folder in (target, *target.parents) if not folder.exists()]
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=target):
            pass
        for folder in missing:  # a run that fails leaves nothing behind
            folder.rmdir()
        return target
    except ConfigError:
        raise
    except (OSError, ValueError, RuntimeError) as exc:  # RuntimeError: the home folder of nobody
        raise TrainingError(f"{given}: cannot be written ({exc}); {_REMEDY}") from exc
