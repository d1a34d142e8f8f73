"""What lies in ``adapter_model.safetensors``: names, types and shapes, read without torch and without a base model."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from alorakit.engine.adapter_config import TARGETS, LoraSpec, tensor_name
from alorakit.engine.errors import AdapterError

WEIGHTS_NAME = "adapter_model.safetensors"
# As safetensors spells them. 8-bit floats need scales, which PEFT does not write.
FLOAT_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
# Name of a tensor -> its type and shape.
Header = Mapping[str, tuple[str, list[int]]]

_TENSOR = re.compile(
    rf"base_model\.model\.model\.layers\.(\d{{1,4}})\.(?:self_attn|mlp)\.({'|'.join(TARGETS)})\.lora_([AB])\.weight"
)


@dataclass(frozen=True)
class BaseShape:
    """What of a base model an adapter must fit.

    Attributes:
        num_layers: Its layers.
        linears: (in_features, out_features) of its linear layers, by name.
        vocab_size: Its vocabulary; None: not known.
    """

    num_layers: int
    linears: Mapping[str, tuple[int, int]]
    vocab_size: int | None


def read_header(folder: Path) -> Header:
    """Names, types and shapes of an adapter folder's tensors.

    Raises:
        AdapterError: No such file, or it is truncated or no safetensors.
    """
    file = folder / WEIGHTS_NAME
    if not file.is_file():
        other = " (found a pickled .bin, which is never loaded)" if (folder / "adapter_model.bin").exists() else ""
        raise AdapterError(f"{folder}: no {WEIGHTS_NAME}{other}; save the adapter with safe_serialization")
    try:
        with safe_open(file, framework="numpy") as handle:
            slices = {key: handle.get_slice(key) for key in handle.keys()}  # noqa: SIM118
            return {key: (part.get_dtype(), part.get_shape()) for key, part in slices.items()}
    except (SafetensorError, OSError, ValueError) as exc:
        raise broken(file, exc) from exc


def broken(file: Path, exc: Exception) -> AdapterError:
    """The error for a file that cannot be read."""
    return AdapterError(f"{file}: truncated or not safetensors ({exc}); save or download it again")


def implied_shape(folder: Path, header: Header) -> BaseShape:
    """The base model as an adapter's own tensors show it: what the first of each target says holds for all.

    Raises:
        AdapterError: No tensor is that of a linear layer's LoRA.
    """
    layers, inputs, outputs = 0, dict[str, int](), dict[str, int]()
    for name, (_, shape) in header.items():
        found = _TENSOR.fullmatch(name)
        if found is None or len(shape) != 2:
            continue
        layers = max(layers, int(found[1]) + 1)
        if found[3] == "A":
            inputs.setdefault(found[2], shape[1])
        else:
            outputs.setdefault(found[2], shape[0])
    if not layers:
        raise AdapterError(
            f"{folder / WEIGHTS_NAME}: none of its {len(header)} tensors is the lora_A or lora_B of a layer's "
            f"{', '.join(TARGETS)}; save the adapter with PEFT's save_pretrained"
        )
    return BaseShape(layers, {target: (inputs.get(target, 0), outputs.get(target, 0)) for target in TARGETS}, None)


def tensor_problems(header: Header, specs: Mapping[tuple[int, str], LoraSpec], base: BaseShape) -> list[str]:
    """What is missing, unexpected, misshapen or of a type that is not supported.

    Args:
        header: What is there.
        specs: The adapted layers, as ``adapter_config.json`` says.
        base: What they must fit.
    """
    wanted: dict[str, list[int]] = {}
    for (layer, target), spec in specs.items():
        ins, outs = base.linears[target]
        wanted[tensor_name(layer, target, "A")] = [spec.rank, ins]
        wanted[tensor_name(layer, target, "B")] = [outs, spec.rank]
    problems = [f"missing {key}" for key in wanted if key not in header]
    problems += [f"unexpected {key}" for key in header if key not in wanted]
    problems += [
        f"{key} has shape {header[key][1]}, not {shape}"
        for key, shape in wanted.items()
        if key in header and header[key][1] != shape
    ]
    return problems + [f"{key} is {dtype}" for key, (dtype, _) in header.items() if dtype not in FLOAT_BYTES]
