"""What ``m alora train`` does once its flags are read: load, report, then plan or train."""

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from alorakit.bindings.cli.progress import ProgressDisplay
from alorakit.bindings.paths import existing
from alorakit.engine.errors import DataError, TrainingError
from alorakit.training.config import TrainConfig

if TYPE_CHECKING:
    from alorakit.training.data import Example, ExampleList
    from alorakit.training.data_report import DataReport


@dataclass(frozen=True)
class Job:
    """One call of the command.

    Attributes:
        datafile: Rows to train on.
        validation: Rows to validate on, or None.
        basemodel: Folder or Hub id.
        outfile: Adapter folder to write.
        config: Settings.
        layout: How rows are laid out.
        invocation: Its text; None: the default one.
        requirement_field: Field of the rows' requirements; None: ``requirement``, if it is there.
        max_length: Most tokens of a row.
        resume: Go on where an earlier run stopped.
        dry_run: Say what would be done, and do nothing.
        as_json: Print one JSON object.
    """

    datafile: Path
    basemodel: str
    outfile: Path
    config: TrainConfig
    layout: str
    invocation: str | None
    requirement_field: str | None
    max_length: int
    validation: Path | None = None
    resume: bool = False
    dry_run: bool = False
    as_json: bool = False


def run(job: Job) -> None:
    """Train, or say what training would do.

    Raises:
        AlorakitError: Something cannot be used; nothing has been written.
    """
    files = [_file(path) for path in (job.datafile, *([job.validation] if job.validation else []))]
    # torch comes in from here on, after everything that can be checked without it.
    from alorakit.bindings.checks.verdict import passing_labels
    from alorakit.engine.pretrained import resolve_model
    from alorakit.engine.tokenizer import Tokenizer
    from alorakit.training import load_examples
    from alorakit.training.prepare import check_examples

    _check_outfile(job)
    tokenizer = Tokenizer.from_pretrained(resolve_model(job.basemodel).path)
    how = (tokenizer, job.layout, job.invocation, job.requirement_field, job.max_length)
    examples = load_examples(files[0], *how)
    validation = load_examples(files[1], *how, min_rows=1) if job.validation else None
    config = job.config
    if config.capability is None and examples[0].requirement:
        # Rows that carry requirements make an adapter that checks requirements.
        config = replace(config, capability="requirement-check")
    if config.pass_labels or config.fail_labels:
        labels = sorted({example.label for example in examples})
        passing_labels(labels, None, config.pass_labels, config.fail_labels)  # raises now rather than at a check
    check_examples(examples, config, validation or ())
    for line in [str(job.datafile), *_describe(examples, validation, config).lines(), *_cut(job, examples, validation)]:
        typer.echo(line, err=job.as_json)
    (_plan if job.dry_run else _train)(job, config, examples, validation)


def _plan(job: Job, config: TrainConfig, examples: "ExampleList", validation: "ExampleList | None") -> None:
    from alorakit.training.plan import plan

    found = plan(job.basemodel, examples, config, validation)
    typer.echo(json.dumps(asdict(found), ensure_ascii=False) if job.as_json else "\n".join(found.lines()))


def _train(job: Job, config: TrainConfig, examples: "ExampleList", validation: "ExampleList | None") -> None:
    from alorakit.training import train

    with ProgressDisplay(sys.stderr) as display:
        report = train(
            job.basemodel, examples, config, job.outfile, progress=display, validation=validation, resume=job.resume
        )
    if job.as_json:
        typer.echo(json.dumps({**asdict(report), "path": str(report.path)}, ensure_ascii=False))
        return
    metrics = _listed(report.metrics) + (f"; base model: {_listed(report.before)}" if report.before else "")
    if report.prefixes.get("recomputed"):
        typer.echo(
            f"{report.prefixes['recomputed']} prefixes did not fit into memory; computing them anew took "
            f"{report.recompute_seconds:.1f} s"
        )
    typer.echo(f"{job.outfile}: best epoch {report.best_epoch} ({metrics}), {report.tokens_per_s:.0f} tokens/s")
    typer.echo(f"try it: m alora check {shlex.quote(str(job.outfile))} 'a text'", err=True)


def _listed(metrics: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in metrics.items())


def _file(path: Path) -> Path:
    found = existing(path)
    if found is None or not found.is_file():
        raise DataError(f"{path} is not a file; give JSON lines, each with 'item' or 'messages', and 'label'")
    return found


def _check_outfile(job: Job) -> None:
    if not job.dry_run:
        from alorakit.training.adapter_folder import check_outfile

        check_outfile(job.outfile)
        return
    from alorakit.training.plan import outfile_problem  # writes nothing

    if problem := outfile_problem(job.outfile):
        raise TrainingError(problem)


def _describe(
    examples: Sequence["Example"], validation: Sequence["Example"] | None, config: TrainConfig
) -> "DataReport":
    from alorakit.training.answers import answers_of
    from alorakit.training.data_report import describe
    from alorakit.training.prepare import split

    answers = answers_of(examples, config)
    if validation is not None:
        return describe(examples, validation, answers)
    rows = split(len(examples), config.val_fraction, config.seed)
    training, held_out = ([examples[row] for row in part] for part in rows)
    return describe(training, held_out, answers)


def _cut(job: Job, examples: "ExampleList", validation: "ExampleList | None") -> list[str]:
    num_cut = examples.truncated + (validation.truncated if validation is not None else 0)
    return [f"cut        {num_cut} rows, longer than {job.max_length} tokens, from the left"] if num_cut else []
