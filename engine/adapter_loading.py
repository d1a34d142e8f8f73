"""Loads adapter folders: whole and checked before anyone sees them, owned by this process afterwards."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from alorakit.engine.adapter_config import AdapterConfig, LoraSpec, module_path, tensor_name
from alorakit.engine.adapter_tensors import (
    WEIGHTS_NAME,
    BaseShape,
    Header,
    broken,
    implied_shape,
    read_header,
    tensor_problems,
)
from alorakit.engine.adapters import Adapter, AdapterInfo, AdapterWeights, LoraPair, linear_shapes
from alorakit.engine.errors import AdapterError
from alorakit.engine.files import is_folder
from alorakit.engine.manifest import Manifest
from alorakit.engine.model_config import ModelConfig

# As safetensors spells them.
_FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_DTYPE = torch.bfloat16  # what an adapter is checked in where no model says; it has the range of float32


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
    base = BaseShape(config.num_layers, linear_shapes(config), config.vocab_size)
    path = _adapter_folder(folder)
    return _load(name, path, AdapterConfig.load(path), read_header(path), base, dtype, layout)


def check_adapter(folder: str | Path) -> Adapter:
    """Load an adapter folder without its base model: all is checked but that the shapes are that model's.

    Args:
        folder: As for :func:`load_adapter`.

    Raises:
        AdapterError: As :func:`load_adapter`; shapes must agree with each other.
    """
    path = _adapter_folder(folder)
    parsed = AdapterConfig.load(path)
    header = read_header(path)
    return _load(path.name, path, parsed, header, implied_shape(path, header), _DTYPE, None)


def _adapter_folder(folder: str | Path) -> Path:
    path = Path(folder)
    if not is_folder(path):
        raise AdapterError(f"{path}: no such folder; give the folder that `m alora train --outfile` wrote")
    return path


def _load(
    name: str,
    path: Path,
    parsed: AdapterConfig,
    header: Header,
    base: BaseShape,
    dtype: torch.dtype,
    layout: str | None,
) -> Adapter:
    limit = base.vocab_size
    if bad := [t for t in parsed.invocation_tokens or () if t < 0 or (limit is not None and t >= limit)]:
        raise AdapterError(f"{path}: invocation tokens {bad} are not in the base model's vocabulary")
    specs = parsed.modules(base.num_layers)
    tensors = _read(path, specs, header, base)
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


def _read(path: Path, specs: Mapping[tuple[int, str], LoraSpec], header: Header, base: BaseShape) -> dict[str, Tensor]:
    """The folder's tensors, checked against the base model's shapes before memory is taken for them."""
    file = path / WEIGHTS_NAME
    if problems := tensor_problems(header, specs, base):
        shown = "; ".join(problems[:4]) + (f"; and {len(problems) - 4} more" if len(problems) > 4 else "")
        raise AdapterError(f"{file}: does not fit the base model and its adapter_config.json: {shown}")
    try:
        # Read rather than mapped: the file may be replaced or cut while the adapter is in use.
        tensors = load(file.read_bytes())
    except (SafetensorError, OSError, ValueError) as exc:
        raise broken(file, exc) from exc
    if header != {key: (_spelling(tensor.dtype), list(tensor.shape)) for key, tensor in tensors.items()}:
        raise AdapterError(f"{file}: was changed while it was read; add the adapter again")
    return tensors


def _spelling(dtype: torch.dtype) -> str | None:
    return next((name for name, known in _FLOATS.items() if known == dtype), None)


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
