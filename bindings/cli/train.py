"""``m alora train``: from a file of labelled rows to an adapter folder."""

from pathlib import Path
from typing import Annotated

import typer

from alorakit.bindings.cli import train_options as flags
from alorakit.bindings.cli.errors import Debug, reported
from alorakit.bindings.cli.options import Device
from alorakit.bindings.cli.train_run import Job, run
from alorakit.engine.errors import ConfigError, DataError
from alorakit.engine.files import read_json_object
from alorakit.training.config import TrainConfig

DEFAULTS = TrainConfig()
MAX_LENGTH = 1024
LAYOUT = "chat"
TARGETS = ",".join(DEFAULTS.targets)


def train(
    ctx: typer.Context,
    datafile: Annotated[Path, typer.Argument(help="JSON lines, each with 'item' (or 'messages') and 'label'; or .gz.")],
    basemodel: Annotated[str, typer.Option(help="Base model: Hub id or folder.")],
    outfile: Annotated[Path, typer.Option(help="Folder to write the adapter to.")],
    adapter: flags.Adapter = DEFAULTS.adapter,
    device: Device = DEFAULTS.device,
    preset: flags.Preset = None,
    epochs: flags.Epochs = DEFAULTS.epochs,
    learning_rate: flags.LearningRate = DEFAULTS.learning_rate,
    batch_size: flags.BatchSize = DEFAULTS.batch_size,
    max_length: Annotated[int, typer.Option(help="Most tokens of a row; a longer item is cut from the left.")] = (
        MAX_LENGTH
    ),
    grad_accum: flags.GradAccum = DEFAULTS.grad_accum,
    scheduler: flags.Scheduler = DEFAULTS.scheduler,
    warmup_ratio: flags.WarmupRatio = DEFAULTS.warmup_ratio,
    weight_decay: flags.WeightDecay = DEFAULTS.weight_decay,
    max_grad_norm: flags.MaxGradNorm = DEFAULTS.max_grad_norm,
    promptfile: Annotated[Path | None, typer.Option(help='JSON: {"invocation_prompt": "..."}.')] = None,
    rank: flags.Rank = DEFAULTS.rank,
    alpha: flags.Alpha = DEFAULTS.alpha,
    dropout: flags.Dropout = DEFAULTS.dropout,
    target_modules: flags.TargetModules = TARGETS,
    seed: flags.Seed = DEFAULTS.seed,
    layout: Annotated[str, typer.Option(help="How rows are laid out: chat or mellea.")] = LAYOUT,
    requirement_field: Annotated[
        str | None,
        typer.Option(help="Field of a row that holds a requirement. Default: 'requirement', if it is there."),
    ] = None,
    validation: Annotated[Path | None, typer.Option(help="Rows to validate on, in a file of their own.")] = None,
    val_fraction: flags.ValFraction = DEFAULTS.val_fraction,
    best_by: flags.BestBy = DEFAULTS.best_by,
    early_stopping: flags.EarlyStopping = DEFAULTS.early_stopping,
    answer: flags.Answer = DEFAULTS.answer,
    field: flags.Field = DEFAULTS.field,
    pass_label: Annotated[list[str] | None, typer.Option(help="A label that passes a check; repeatable.")] = None,
    fail_label: Annotated[list[str] | None, typer.Option(help="A label that fails a check; repeatable.")] = None,
    capability: flags.Capability = DEFAULTS.capability,
    dtype: flags.Dtype = DEFAULTS.dtype,
    activation_checkpointing: flags.ActivationCheckpointing = DEFAULTS.activation_checkpointing,
    prefix_memory: flags.PrefixMemory = None,
    save_steps: flags.SaveSteps = DEFAULTS.save_steps,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where an earlier run of this outfile stopped.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and what it takes; write nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object; notes go to stderr.")] = False,
    debug: Debug = False,
) -> None:
    """Train an adapter on labelled rows."""
    with reported(debug):
        if validation is not None and flags.given(ctx, "val_fraction"):
            raise ConfigError(
                f"val_fraction={val_fraction:g} holds rows out, and --validation {validation} takes their place; give "
                "one of them"
            )
        config = flags.settings(  # reads the flags that are named as TrainConfig's fields
            ctx,
            target_modules=tuple(name.strip() for name in target_modules.split(",")),
            prefix_memory=flags.parse_bytes(prefix_memory),
            pass_labels=tuple(pass_label) if pass_label else None,
            fail_labels=tuple(fail_label) if fail_label else None,
        )
        run(
            Job(
                datafile=datafile,
                validation=validation,
                basemodel=basemodel,
                outfile=outfile,
                config=config,
                layout=layout,
                invocation=None if promptfile is None else read_promptfile(promptfile),
                requirement_field=requirement_field,
                max_length=max_length,
                resume=resume,
                dry_run=dry_run,
                as_json=as_json,
            )
        )


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
