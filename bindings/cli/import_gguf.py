"""``m alora import-gguf``: a GGUF file becomes a model folder that the engine reads."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from alorakit.bindings.cli.errors import Debug, reported
from alorakit.bindings.cli.options import AsJson
from alorakit.bindings.cli.progress import ProgressDisplay
from alorakit.bindings.paths import existing
from alorakit.engine.errors import AlorakitError, ConfigError, ModelNotFoundError
from alorakit.training.config import ProgressEvent

_DTYPES = ("bfloat16", "float16", "float32")


def import_gguf(
    file: Annotated[Path, typer.Argument(help="GGUF file of a family that transformers can read.")],
    out: Annotated[Path, typer.Argument(help="Folder to make.")],
    dtype: Annotated[str, typer.Option(help=f"Type of the weights written: {', '.join(_DTYPES)}.")] = "bfloat16",
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Convert a GGUF file into a model folder: dequantized weights, tokenizer and configuration."""
    with reported(debug):
        if dtype not in _DTYPES:
            raise ConfigError(f"dtype={dtype!r} is not one of {', '.join(_DTYPES)}")
        source = existing(file)
        if source is None or not source.is_file():
            raise ModelNotFoundError(f"{file}: no such file; give a GGUF file")
        try:
            target = out.expanduser()
        except RuntimeError as exc:  # the home of nobody
            raise ConfigError(f"{out}: no such user; name a folder that can be made") from exc
        if target.exists():
            raise ConfigError(f"{out} is there already, and nothing is written over it; name a folder that is not")
        from alorakit.engine.gguf import convert_gguf, describe_gguf

        told = describe_gguf(source)
        notes = f"{source.name}: weights are dequantized {told.quantization}, not the original ones"
        marker = json.dumps({"notes": notes, "source": source.name}, indent=2, ensure_ascii=False) + "\n"
        units = {"read": "tensors", "write": dtype}
        with ProgressDisplay(sys.stderr) as display:
            folder = convert_gguf(
                source,
                target,
                dtype,
                marker,
                lambda done, total, stage: display(ProgressEvent(stage, done, total, units[stage])),
            )
        refusal = _refusal(folder)
        if as_json:
            report = {
                "path": str(folder),
                "architecture": told.architecture,
                "quantization": told.quantization,
                "dtype": dtype,
                "usable": refusal is None,
                "refusal": refusal,
            }
            typer.echo(json.dumps(report, ensure_ascii=False))
            return
        typer.echo(f"wrote {folder}: {told.architecture}, dequantized from {told.quantization} to {dtype}")
        if refusal is not None:
            typer.echo(f"warning: the engine does not run this model ({refusal}); transformers does", err=True)


def _refusal(folder: Path) -> str | None:
    """Why the engine refuses a model, or None."""
    from alorakit.engine.model_config import ModelConfig

    try:
        ModelConfig.from_folder(folder)
    except AlorakitError as exc:
        return str(exc)
    return None
