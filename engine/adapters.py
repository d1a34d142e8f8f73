"""Adapters: loaded whole and checked before anyone sees them, fused as the decoder's projections are."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from alorakit.engine.adapter_config import AdapterConfig, LoraSpec, module_path
from alorakit.engine.errors import AdapterError
from alorakit.engine.files import is_folder
from alorakit.engine.manifest import Manifest
from alorakit.engine.model_config import ModelConfig
from alorakit.kernels import ops

# The decoder's fused projections and the linear layers in them, in order.
FUSED = {
    "qkv": ("q_proj", "k_proj", "v_proj"),
    "o": ("o_proj",),
    "gate_up": ("gate_proj", "up_proj"),
    "down": ("down_proj",),
}


@dataclass(frozen=True)
class AdapterInfo:
    """What is known of a registered adapter.

    Attributes:
        name: The name it was registered under.
        kind: ``"alora"`` or ``"lora"``.
        rank: Its largest rank.
        targets: Adapted linear layers, such as ``q_proj``.
        invocation_tokens: The aLoRA's invocation, or None.
        digest: SHA-256 of weights and configuration; what the prefix cache knows it by.
        path: The folder it came from.
        base_model: The base model its configuration names.
        manifest: ``alorakit.json``, or None for a foreign adapter.
    """

    name: str
    kind: str
    rank: int
    targets: tuple[str, ...]
    invocation_tokens: tuple[int, ...] | None
    digest: str
    path: Path
    base_model: str
    manifest: Manifest | None


@dataclass(frozen=True)
class Adapter:
    """An adapter's weights on the device.

    Attributes:
        info: What it is.
        layers: For each layer, fused projection -> (A [ranks, in], B [ranks, out]), float32, as ``ops.lora_delta``
            wants them.
    """

    info: AdapterInfo
    layers: tuple[Mapping[str, tuple[Tensor, Tensor]], ...]

    def find_activation(self, tokens: list[int]) -> int | None:
        """Index of the first adapted token of a prompt: 0 for a LoRA, the last invocation's start for an aLoRA."""
        if self.info.invocation_tokens is None:
            return 0
        return find_last(tokens, self.info.invocation_tokens)


class BatchedAdapters:
    """The adapters of one batch: which rows get whose delta (the decoder's ``LoraApplier``)."""

    def __init__(self, segments: list[tuple[int, int, Adapter]]) -> None:
        """``segments``: (first row, one past last row, adapter)."""
        self.segments = segments

    def __call__(self, layer: int, projection: str, x: Tensor, out: Tensor) -> Tensor:
        """Add each segment's delta to its rows of ``out`` in place; see ``model.LoraApplier``."""
        for start, end, adapter in self.segments:
            pair = adapter.layers[layer].get(projection)
            if pair is not None:
                ops.lora_delta(out[start:end], x[start:end], *pair)
        return out


def find_last(tokens: list[int], pattern: tuple[int, ...]) -> int | None:
    """Start of the last occurrence of ``pattern`` in ``tokens``, or None."""
    size = len(pattern)
    for start in range(len(tokens) - size, -1, -1):
        if tokens[start] == pattern[0] and tuple(tokens[start : start + size]) == pattern:
            return start
    return None


def load_adapter(
    name: str, folder: str | Path, config: ModelConfig, device: torch.device, layout: str | None = None
) -> Adapter:
    """Load an adapter folder; nothing is returned unless all of it is sound.

    Args:
        name: What to call it.
        folder: Holds ``adapter_config.json`` and ``adapter_model.safetensors``.
        config: The base model's shape.
        device: Where the weights go.
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
    layers = tuple(_fuse(layer, specs, tensors, config, device) for layer in range(config.num_layers))
    return Adapter(info, layers)


def linear_shapes(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """(in_features, out_features) of the seven linear layers."""
    hidden, inter = config.hidden_size, config.intermediate_size
    return {
        "q_proj": (hidden, config.q_size),
        "k_proj": (hidden, config.kv_size),
        "v_proj": (hidden, config.kv_size),
        "o_proj": (config.q_size, hidden),
        "gate_proj": (hidden, inter),
        "up_proj": (hidden, inter),
        "down_proj": (inter, hidden),
    }


def tensor_name(layer: int, target: str, which: str) -> str:
    """PEFT's name of ``lora_A`` or ``lora_B`` of a linear layer."""
    return f"base_model.model.{module_path(layer, target)}.lora_{which}.weight"


def _read(path: Path, specs: Mapping[tuple[int, str], LoraSpec], config: ModelConfig) -> dict[str, Tensor]:
    file = path / "adapter_model.safetensors"
    if not file.is_file():
        other = " (found a pickled .bin, which is never loaded)" if (path / "adapter_model.bin").exists() else ""
        raise AdapterError(f"{path}: no adapter_model.safetensors{other}; save the adapter with safe_serialization")
    try:
        tensors = load_file(str(file))
    except (SafetensorError, OSError, ValueError) as exc:
        raise AdapterError(f"{file}: truncated or not safetensors ({exc}); save or download it again") from exc
    shapes = linear_shapes(config)
    wanted: dict[str, tuple[int, int]] = {}
    for (layer, target), spec in specs.items():
        wanted[tensor_name(layer, target, "A")] = (spec.rank, shapes[target][0])
        wanted[tensor_name(layer, target, "B")] = (shapes[target][1], spec.rank)
    problems = [f"missing {key}" for key in wanted if key not in tensors]
    problems += [f"unexpected {key}" for key in tensors if key not in wanted]
    problems += [
        f"{key} has shape {list(tensors[key].shape)}, not {list(shape)}"
        for key, shape in wanted.items()
        if key in tensors and tuple(tensors[key].shape) != shape
    ]
    problems += [f"{key} is {t.dtype}" for key, t in tensors.items() if not t.is_floating_point()]
    if problems:
        shown = "; ".join(problems[:4]) + (f"; and {len(problems) - 4} more" if len(problems) > 4 else "")
        raise AdapterError(f"{file}: does not fit the base model and its adapter_config.json: {shown}")
    return tensors


def _digest(parsed: AdapterConfig, specs: Mapping[tuple[int, str], LoraSpec], tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(repr((parsed.invocation_tokens, sorted(specs.items(), key=lambda kv: kv[0]))).encode())
    for key in sorted(tensors):
        tensor = tensors[key].contiguous()
        digest.update(f"{key} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _fuse(
    layer: int,
    specs: Mapping[tuple[int, str], LoraSpec],
    tensors: Mapping[str, Tensor],
    config: ModelConfig,
    device: torch.device,
) -> dict[str, tuple[Tensor, Tensor]]:
    """Stack the A's of a fused projection and lay their B's out block-diagonally, scaling included."""
    shapes = linear_shapes(config)
    fused: dict[str, tuple[Tensor, Tensor]] = {}
    for projection, parts in FUSED.items():
        present = [t for t in parts if (layer, t) in specs]
        if not present:
            continue
        ranks = sum(specs[layer, t].rank for t in present)
        a = torch.cat([tensors[tensor_name(layer, t, "A")].float() for t in present])
        b = torch.zeros(ranks, sum(shapes[t][1] for t in parts))
        row = column = 0
        for target in parts:
            out = shapes[target][1]
            if target in present:
                spec = specs[layer, target]
                scaled = tensors[tensor_name(layer, target, "B")].float().T * spec.scaling
                b[row : row + spec.rank, column : column + out] = scaled
                row += spec.rank
            column += out
        if not (a.isfinite().all() and b.isfinite().all()):
            raise AdapterError(
                f"weights of {module_path(layer, present[0])} (or of what is fused with it) are not finite, or are not "
                "after scaling; train the adapter again with a lower learning rate"
            )
        fused[projection] = (a.to(device), b.to(device))
    return fused
