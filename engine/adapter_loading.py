"""Loads adapter folders: whole and checked before anyone sees them, owned by this process afterwards."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load
from torch import Tensor

from alorakit.engine.adapter_config import AdapterConfig, LoraSpec, module_path
from alorakit.engine.adapters import Adapter, AdapterInfo, AdapterWeights, LoraPair, linear_shapes, tensor_name
from alorakit.engine.errors import AdapterError
from alorakit.engine.files import is_folder
from alorakit.engine.manifest import Manifest
from alorakit.engine.model_config import ModelConfig

# As safetensors spells them. 8-bit floats need scales, which PEFT does not write.
_FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def load_adapter(
    name: str, folder: str | Path, config: ModelConfig, dtype: torch.dtype, layout: str | None = None
) -> Adapter:
    """Load an adapter folder into host memory; nothing is returned unless all of it is sound.

    Args:
        name: What to call it.
        folder: Holds ``adapter_config.json`` and ``adapter_model.safetensors``.
        config: The base model's shape.
        dtype: The model's compute dtype; the weights must be finite in it.
        layout: Check layout for a folder without ``alorakit.json``.

    Raises:
        AdapterError: Unsupported feature, missing, unexpected or misshapen tensors, truncated file.
    """
    path = Path(folder)
    if not is_folder(path):
        raise AdapterError(f"{path}: no such folder; give the folder that `m alora train --outfile` wrote")
    parsed = AdapterConfig.load(path)
    if bad := [t for t in parsed.invocation_tokens or () if not 0 <= t < config.vocab_size]:
        raise AdapterError(f"{path}: invocation tokens {bad} are not in the base model's vocabulary")
    specs = parsed.modules(config.num_layers)
    tensors = _read(path, specs, config)
    manifest = Manifest.load(path)
    if manifest is None and layout is not None:
        manifest = Manifest(layout=layout, base_model=parsed.base_model)
    info = AdapterInfo(
        name=name,
        kind="lora" if parsed.invocation_tokens is None else "alora",
        rank=max(spec.rank for spec in specs.values()),
        targets=tuple(dict.fromkeys(target for _, target in specs)),
        invocation_tokens=parsed.invocation_tokens,
        digest=_digest(parsed, specs, tensors),
        path=path,
        base_model=parsed.base_model,
        manifest=manifest,
    )
    return Adapter(info, AdapterWeights({key: _pair(key, spec, tensors, dtype) for key, spec in specs.items()}))


def _read(path: Path, specs: Mapping[tuple[int, str], LoraSpec], config: ModelConfig) -> dict[str, Tensor]:
    """The folder's tensors, checked against the base model's shapes before memory is taken for them."""
    file = path / "adapter_model.safetensors"
    if not file.is_file():
        other = " (found a pickled .bin, which is never loaded)" if (path / "adapter_model.bin").exists() else ""
        raise AdapterError(f"{path}: no adapter_model.safetensors{other}; save the adapter with safe_serialization")
    shapes = linear_shapes(config)
    wanted: dict[str, list[int]] = {}
    for (layer, target), spec in specs.items():
        wanted[tensor_name(layer, target, "A")] = [spec.rank, shapes[target][0]]
        wanted[tensor_name(layer, target, "B")] = [shapes[target][1], spec.rank]
    try:
        with safe_open(file, framework="pt") as handle:
            slices = {key: handle.get_slice(key) for key in handle.keys()}  # noqa: SIM118
            found = {key: (part.get_dtype(), part.get_shape()) for key, part in slices.items()}
    except (SafetensorError, OSError, ValueError) as exc:
        raise _broken(file, exc) from exc
    _check_tensors(file, found, wanted)
    try:
        # Read rather than mapped: the file may be replaced or cut while the adapter is in use.
        tensors = load(file.read_bytes())
    except (SafetensorError, OSError, ValueError) as exc:
        raise _broken(file, exc) from exc
    if found != {key: (_spelling(tensor.dtype), list(tensor.shape)) for key, tensor in tensors.items()}:
        raise AdapterError(f"{file}: was changed while it was read; add the adapter again")
    return tensors


def _broken(file: Path, exc: Exception) -> AdapterError:
    return AdapterError(f"{file}: truncated or not safetensors ({exc}); save or download it again")


def _spelling(dtype: torch.dtype) -> str | None:
    return next((name for name, known in _FLOATS.items() if known == dtype), None)


def _check_tensors(file: Path, found: Mapping[str, tuple[str, list[int]]], wanted: Mapping[str, list[int]]) -> None:
    problems = [f"missing {key}" for key in wanted if key not in found]
    problems += [f"unexpected {key}" for key in found if key not in wanted]
    problems += [
        f"{key} has shape {found[key][1]}, not {shape}"
        for key, shape in wanted.items()
        if key in found and found[key][1] != shape
    ]
    problems += [f"{key} is {dtype}" for key, (dtype, _) in found.items() if dtype not in _FLOATS]
    if problems:
        shown = "; ".join(problems[:4]) + (f"; and {len(problems) - 4} more" if len(problems) > 4 else "")
        raise AdapterError(f"{file}: does not fit the base model and its adapter_config.json: {shown}")


def _digest(parsed: AdapterConfig, specs: Mapping[tuple[int, str], LoraSpec], tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(repr((parsed.invocation_tokens, sorted(specs.items(), key=lambda kv: kv[0]))).encode())
    for key in sorted(tensors):
        tensor = tensors[key].contiguous()
        digest.update(f"{key} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _pair(key: tuple[int, str], spec: LoraSpec, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> LoraPair:
    pair = LoraPair(tensors[tensor_name(*key, "A")], tensors[tensor_name(*key, "B")], spec.scaling)
    if not (pair.a.to(dtype).isfinite().all() and pair.scaled_b().to(dtype).isfinite().all()):
        raise AdapterError(
            f"weights of {module_path(*key)} are not finite in {str(dtype).removeprefix('torch.')}, or are not after "
            "scaling; train the adapter again with a lower learning rate"
        )
    return pair
