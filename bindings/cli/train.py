"""``m alora train``: from a file of labelled rows to an adapter folder."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from alorakit.bindings.cli.errors import Debug, reported
from alorakit.bindings.cli.progress import ProgressDisplay
from alorakit.bindings.paths import existing
from alorakit.engine.errors import DataError
from alorakit.engine.files import read_json_object
from alorakit.training.config import TrainConfig

DEFAULTS = TrainConfig()
MAX_LENGTH = 1024
LAYOUT = "chat"


def train(
    datafile: Annotated[Path, typer.Argument(help="JSON lines, each with strings 'item' and 'label'.")],
    basemodel: Annotated[str, typer.Option(help="Base model: Hub id or folder.")],
    outfile: Annotated[Path, typer.Option(help="Folder to write the adapter to.")],
    adapter: Annotated[str, typer.Option(help="alora or lora.")] = DEFAULTS.adapter,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = DEFAULTS.device,
    epochs: Annotated[int, typer.Option(help="Passes over the training rows.")] = DEFAULTS.epochs,
    learning_rate: Annotated[float, typer.Option(help="AdamW's, at the start.")] = DEFAULTS.learning_rate,
    batch_size: Annotated[int, typer.Option(help="Rows in one forward pass.")] = DEFAULTS.batch_size,
    max_length: Annotated[int, typer.Option(help="Most tokens of a row; a longer item is cut from the left.")] = (
        MAX_LENGTH
    ),
    grad_accum: Annotated[int, typer.Option(help="Forward passes per optimizer step.")] = DEFAULTS.grad_accum,
    promptfile: Annotated[Path | None, typer.Option(help='JSON: {"invocation_prompt": "..."}.')] = None,
    rank: Annotated[int | None, typer.Option(help="Default: 32 for alora, 6 for lora.")] = DEFAULTS.rank,
    alpha: Annotated[float, typer.Option(help="The delta is scaled by alpha / rank.")] = DEFAULTS.alpha,
    dropout: Annotated[float, typer.Option(help="On the low-rank path, while training.")] = DEFAULTS.dropout,
    target_modules: Annotated[str, typer.Option(help="Linear layers, with commas; or all-linear.")] = ",".join(
        DEFAULTS.targets
    ),
    seed: Annotated[int, typer.Option(help="Decides split, order and initial weights.")] = DEFAULTS.seed,
    layout: Annotated[str, typer.Option(help="How rows are laid out: chat or mellea.")] = LAYOUT,
    requirement_field: Annotated[str | None, typer.Option(help="Field of a row that holds a requirement.")] = None,
    val_fraction: Annotated[float, typer.Option(help="Share of the rows held out.")] = DEFAULTS.val_fraction,
    pass_label: Annotated[list[str] | None, typer.Option(help="A label that passes a check; repeatable.")] = None,
    fail_label: Annotated[list[str] | None, typer.Option(help="A label that fails a check; repeatable.")] = None,
    dtype: Annotated[str, typer.Option(help="Compute type of the base: auto, bfloat16, float32.")] = DEFAULTS.dtype,
    debug: Debug = False,
) -> None:
    """Train an adapter on labelled rows."""
    with reported(debug):
        config = TrainConfig(
            adapter=adapter,  # type: ignore[arg-type]  # TrainConfig checks it, with a better message
            rank=rank,
            alpha=alpha,
            dropout=dropout,
            epochs=epochs,
            batch_size=batch_size,
            grad_accum=grad_accum,
            learning_rate=learning_rate,
            val_fraction=val_fraction,
            seed=seed,
            device=device,
            dtype=dtype,  # type: ignore[arg-type]
            target_modules=tuple(name.strip() for name in target_modules.split(",")),
            pass_labels=tuple(pass_label) if pass_label else None,
            fail_labels=tuple(fail_label) if fail_label else None,
            # Rows that carry requirements make an adapter that checks requirements.
            capability="requirement-check" if requirement_field else None,
        )
        invocation = None if promptfile is None else read_promptfile(promptfile)
        _run(datafile, basemodel, outfile, config, layout, invocation, requirement_field, max_length)


def _run(
    datafile: Path,
    basemodel: str,
    outfile: Path,
    config: TrainConfig,
    layout: str,
    invocation: str | None,
    requirement_field: str | None,
    max_length: int,
) -> None:
    rows = existing(datafile)
    if rows is None or not rows.is_file():
        raise DataError(f"{datafile} is not a file; give JSON lines, each with strings 'item' and 'label'")
    # torch comes in from here on, after everything that can be checked without it.
    from alorakit.bindings.session.verdict import passing_labels
    from alorakit.engine.pretrained import resolve_model
    from alorakit.engine.tokenizer import Tokenizer
    from alorakit.training import load_examples
    from alorakit.training import train as run
    from alorakit.training.checkpoint import check_outfile

    check_outfile(outfile)
    tokenizer = Tokenizer.from_pretrained(resolve_model(basemodel).path)
    examples = load_examples(rows, tokenizer, layout, invocation, requirement_field, max_length)
    labels = sorted({example.label for example in examples})
    if config.pass_labels or config.fail_labels:
        passing_labels(labels, None, config.pass_labels, config.fail_labels)  # raises now rather than at a check
    typer.echo(f"{datafile}: {len(examples)} rows, labels {', '.join(labels)}")
    if examples.truncated:
        typer.echo(
            f"{examples.truncated} rows were longer than {max_length} tokens; their items were cut from the left"
        )
    with ProgressDisplay(sys.stderr) as display:
        report = run(basemodel, examples, config, outfile, progress=display)
    metrics = ", ".join(f"{name} {value:.3g}" for name, value in report.metrics.items())
    typer.echo(f"{outfile}: best epoch {report.best_epoch} ({metrics}), {report.tokens_per_s:.0f} tokens/s")


def read_promptfile(path: Path) -> str:
    """The invocation of a ``--promptfile``.

    Raises:
        DataError: It is not a JSON object with a non-empty string under ``invocation_prompt``.
    """
    remedy = 'it must be a JSON object such as {"invocation_prompt": "<|check|>"}'
    invocation = read_json_object(path, DataError, remedy).get("invocation_prompt")
    if not isinstance(invocation, str) or not invocation.strip():
        raise DataError(f"{path} has no non-empty string under 'invocation_prompt'; {remedy}")
    try:
        invocation.encode("utf-8")
    except UnicodeEncodeError as exc:
        raise DataError(
            f"{path} has half of a surrogate pair under 'invocation_prompt'; write the whole character"
        ) from exc
    return invocation
