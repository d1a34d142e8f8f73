"""What an adapter folder holds, and what of it the engine cannot use: read without torch and without a base model."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alorakit.engine.adapter_config import AdapterConfig, LoraSpec, unsupported
from alorakit.engine.adapter_tensors import (
    FLOAT_BYTES,
    WEIGHTS_NAME,
    Header,
    implied_shape,
    read_header,
    tensor_problems,
)
from alorakit.engine.errors import AdapterError
from alorakit.engine.files import is_file, is_folder, read_json_object
from alorakit.engine.manifest import Manifest

CONFIG_NAME = "adapter_config.json"


@dataclass(frozen=True)
class AdapterSummary:
    """An adapter folder, explained. What is unknown is None or empty.

    Attributes:
        path: The folder.
        kind: ``"alora"`` or ``"lora"``, by the value of ``alora_invocation_tokens``.
        base_model: What the folder names.
        ranks: Every rank in use, ascending.
        scalings: Every factor of the delta in use, ascending.
        targets: Adapted linear layers.
        layers: Adapted layers of the model.
        parameters: Numbers in the adapter's tensors.
        weights_bytes: Size of the weights' file.
        dtypes: Types of the tensors.
        invocation_tokens: The aLoRA's invocation; None: a plain LoRA.
        manifest: ``alorakit.json``, or None.
        problems: Why the engine refuses the folder, a line each; empty: it takes it, if the base model fits.
    """

    path: Path
    kind: str
    base_model: str
    ranks: tuple[int, ...]
    scalings: tuple[float, ...]
    targets: tuple[str, ...]
    layers: int
    parameters: int
    weights_bytes: int
    dtypes: tuple[str, ...]
    invocation_tokens: tuple[int, ...] | None
    manifest: Manifest | None
    problems: tuple[str, ...]


def summarize(folder: Path) -> AdapterSummary:
    """Explain an adapter folder, also one that the engine refuses.

    Args:
        folder: Holds ``adapter_config.json``.

    Raises:
        AdapterError: No such folder, or no ``adapter_config.json`` that is JSON: there is nothing to explain.
    """
    if not is_folder(folder):
        raise AdapterError(f"{folder}: no such folder; give the folder that `m alora train --outfile` wrote")
    if not is_file(folder / CONFIG_NAME):
        raise AdapterError(f"{folder}: no {CONFIG_NAME}; an adapter folder holds it and its safetensors")
    raw = read_json_object(folder / CONFIG_NAME, AdapterError, "save or download the adapter again")
    problems, manifest, parsed = unsupported(raw), None, None
    header: Header = {}
    specs: Mapping[tuple[int, str], LoraSpec] = {}
    try:
        manifest = Manifest.load(folder)
    except AdapterError as exc:
        problems.append(str(exc))
    try:
        parsed = AdapterConfig.load(folder)
    except AdapterError as exc:
        problems += [] if unsupported(raw) else [str(exc)]  # else it is among them
    try:
        header = read_header(folder)
        if parsed is not None:
            shape = implied_shape(folder, header)
            specs = parsed.modules(shape.num_layers)
            problems += tensor_problems(header, specs, shape)
    except AdapterError as exc:
        problems.append(str(exc))
    tokens = raw.get("alora_invocation_tokens")
    return AdapterSummary(
        path=folder,
        kind="lora" if tokens is None else "alora",
        base_model=_text(raw.get("base_model_name_or_path")) or (manifest.base_model if manifest else ""),
        ranks=tuple(sorted({spec.rank for spec in specs.values()})) or _ints(raw.get("r")),
        scalings=tuple(sorted({spec.scaling for spec in specs.values()})),
        targets=tuple(dict.fromkeys(target for _, target in specs)) or _texts(raw.get("target_modules")),
        layers=len({layer for layer, _ in specs}),
        parameters=sum(math.prod(shape) for _, shape in header.values()),
        weights_bytes=(folder / WEIGHTS_NAME).stat().st_size if is_file(folder / WEIGHTS_NAME) else 0,
        dtypes=tuple(
            sorted({dtype for dtype, _ in header.values()}, key=lambda name: (-FLOAT_BYTES.get(name, 0), name))
        ),
        invocation_tokens=_ints(*tokens) if isinstance(tokens, list) else None,
        manifest=manifest,
        problems=tuple(problems),
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(str(item) for item in value) if isinstance(value, list) else (value,) if isinstance(value, str) else ()


def _ints(*values: Any) -> tuple[int, ...]:
    return tuple(value for value in values if type(value) is int)
