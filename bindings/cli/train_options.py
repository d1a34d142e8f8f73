"""Flags of ``m alora train``: their types and help, and the settings they make."""

import re
from dataclasses import fields
from typing import Annotated, Any

import typer

from alorakit.engine.errors import ConfigError
from alorakit.training.config import PRESET_PURPOSES, PRESETS, TrainConfig, preset

_PRESETS_HELP = "; ".join(f"{name}, {purpose}" for name, purpose in PRESET_PURPOSES.items())

Adapter = Annotated[str, typer.Option(help="alora or lora.")]
Dtype = Annotated[str, typer.Option(help="Compute type of the base: auto, bfloat16, float32.")]
Epochs = Annotated[int, typer.Option(help="Passes over the training rows.")]
LearningRate = Annotated[
    float,
    typer.Option(
        help=f"AdamW's, at the start of the schedule. The default is Mellea's; "
        f"{PRESETS['small']['learning_rate']:g} suits {PRESET_PURPOSES['small']} (--preset small), "
        f"{PRESETS['large']['learning_rate']:g} {PRESET_PURPOSES['large']} (--preset large)."
    ),
]
BatchSize = Annotated[int, typer.Option(help="Rows in one forward pass.")]
GradAccum = Annotated[int, typer.Option(help="Forward passes per optimizer step.")]
Scheduler = Annotated[str, typer.Option(help="How the learning rate goes: constant; linear or cosine, both to zero.")]
WarmupRatio = Annotated[float, typer.Option(help="Share of the steps over which the learning rate rises from 0.")]
WeightDecay = Annotated[float, typer.Option(help="AdamW's.")]
MaxGradNorm = Annotated[float, typer.Option(help="Gradients are scaled down to this norm.")]
EarlyStopping = Annotated[
    int | None, typer.Option(help="Stop after so many epochs that are no better than the best. Default: never.")
]
BestBy = Annotated[str, typer.Option(help="Save the epoch with the best validation loss or accuracy.")]
SaveSteps = Annotated[
    int | None, typer.Option(help="Steps between checkpoints; there is one after every epoch in any case.")
]
Rank = Annotated[int | None, typer.Option(help="Default: 32 for alora, 6 for lora.")]
Alpha = Annotated[float, typer.Option(help="The delta is scaled by alpha / rank.")]
Dropout = Annotated[float, typer.Option(help="On the low-rank path, while training.")]
TargetModules = Annotated[str, typer.Option(help="Linear layers, with commas; or all-linear.")]
Seed = Annotated[int, typer.Option(help="Decides split, order and initial weights.")]
ValFraction = Annotated[float, typer.Option(help="Share of the rows held out; not with --validation.")]
Answer = Annotated[
    str,
    typer.Option(
        help="What is answered: label, one of few, which is scored; text, which is generated; auto decides by the rows."
    ),
]
Field = Annotated[str | None, typer.Option(help="Of texts that are JSON objects: the field to count accuracy by.")]
Capability = Annotated[
    str | None,
    typer.Option(help="What the adapter is for. Default: requirement-check if the rows have requirements."),
]
ActivationCheckpointing = Annotated[
    bool | None,
    typer.Option(
        "--activation-checkpointing/--no-activation-checkpointing",
        help="Compute activations again instead of keeping them. Default: where memory requires it.",
    ),
]
PrefixMemory = Annotated[
    str | None,
    typer.Option(help="Memory for kept prefixes: bytes, or such as 256M, 2G, 1GiB. Default: half of what is free."),
]
Preset = Annotated[str | None, typer.Option(help=f"Settings that flags then change: {_PRESETS_HELP}.")]

_UNITS = "KMGT"


def settings(ctx: typer.Context, **changes: Any) -> TrainConfig:
    """The settings that a command's flags make: those named as ``TrainConfig`` names its fields.

    A flag that was given goes before the preset, and the preset before a flag's default.

    Args:
        ctx: The command's context.
        changes: Fields whose flags have another name or form.

    Raises:
        ConfigError: A value is out of range, or there is no such preset.
    """
    names = {field.name for field in fields(TrainConfig)}
    values = {name: value for name, value in ctx.params.items() if name in names}
    name = ctx.params.get("preset")
    settings = {} if name is None else preset(name, ctx.params["adapter"])
    chosen = {name: value for name, value in settings.items() if not given(ctx, name)}
    return TrainConfig(**{**values, **changes, **chosen})


def parse_bytes(text: str | None) -> int | None:
    """Bytes as people write them: ``1024``, ``256M``, ``1.5GB``, ``2GiB``; units are powers of 1024.

    Raises:
        ConfigError: It is no such number.
    """
    if text is None:
        return None
    found = re.fullmatch(
        rf"(\d{{1,18}}(?:\.\d{{1,9}})?)\s*([{_UNITS}]?)(?:i?B)?", text.strip(), re.IGNORECASE | re.ASCII
    )
    if found is None:
        raise ConfigError(f"prefix_memory={text!r:.80} is no size; give bytes, or such as 256M, 2G, 1GiB")
    number, unit = found[1], found[2].upper()
    factor = 1024 ** (_UNITS.index(unit) + 1) if unit else 1
    return int(float(number) * factor) if "." in number else int(number) * factor


def given(ctx: typer.Context, name: str) -> bool:
    """Whether a flag was given, by the name of its parameter; its default says no."""
    source = ctx.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"
