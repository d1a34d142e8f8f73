"""Sharded safetensors, read straight into the decoder's fused weights. Never pickle."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from alorakit.engine.errors import ModelNotFoundError, WeightsError
from alorakit.engine.files import is_file, shard_names
from alorakit.engine.layers import Linear, RotaryEmbedding
from alorakit.engine.model import Decoder, DecoderLayer
from alorakit.engine.model_config import ModelConfig

# Buffers that older checkpoints store and that are computed here.
IGNORED_SUFFIXES = (".rotary_emb.inv_freq",)
# As safetensors spells them. Integers and 8-bit floats need scales, which these architectures' plain weights lack.
_DTYPES = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True)
class Target:
    """Where a checkpoint tensor goes: rows ``[start, start + rows)`` of ``dest``."""

    dest: Tensor
    start: int
    rows: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape the checkpoint's tensor must have."""
        return (self.rows, *self.dest.shape[1:])


def load_decoder(
    folder: str | Path, config: ModelConfig, dtype: torch.dtype, device: torch.device, max_positions: int
) -> Decoder:
    """Load a model folder.

    Args:
        folder: Holds ``model.safetensors`` or ``model.safetensors.index.json`` with its shards.
        config: The model's shape.
        dtype: Compute dtype; weights are converted on the way.
        device: Where to put them.
        max_positions: Length of the rotary tables.

    Raises:
        ModelNotFoundError: No safetensors in the folder.
        WeightsError: A truncated shard; missing, unexpected or misshapen tensors (all named in one message); or an
            ``lm_head.weight`` that differs from the embedding it is said to be tied to.
    """
    shards = shard_files(Path(folder))
    # The headers tell whether the weights fit, before memory is taken for them.
    if problems := _problems(shards, _allocate(config, dtype, torch.device("meta"), 1)[1], config):
        raise WeightsError(f"{folder}: weights do not fit {config.architecture}: {'; '.join(problems)}")
    decoder, targets = _allocate(config, dtype, device, max_positions)
    head: Tensor | None = None
    for shard in shards:
        for name, handle in _open(shard):
            if target := targets.get(name):
                target.dest[target.start : target.start + target.rows].copy_(handle.get_tensor(name))
            elif name == "lm_head.weight":
                head = handle.get_tensor(name)
    # Versions of transformers differ in which of the two they would then use.
    if head is not None and not torch.equal(head.to(device, dtype), decoder.embedding):
        raise WeightsError(
            f"{folder}: lm_head.weight differs from the embedding, yet tie_word_embeddings=true; set that to false in "
            "config.json to use lm_head.weight"
        )
    return decoder


def parameter_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The name of every tensor that a checkpoint of this shape holds, and its shape."""
    return {name: target.shape for name, target in _allocate(config, torch.float32, torch.device("meta"), 1)[1].items()}


def random_decoder(
    config: ModelConfig, dtype: torch.dtype, device: torch.device, max_positions: int, seed: int = 0
) -> Decoder:
    """A model with random weights, made on the device: normal ones of deviation 0.02, norms 1, biases 0.

    For benchmarks and tests, whose results do not depend on what a model has learnt.

    Args:
        config: The model's shape.
        dtype: Compute dtype.
        device: Where to make it.
        max_positions: Length of the rotary tables.
        seed: Of the random numbers; the same on the same kind of device gives the same weights.
    """
    decoder, targets = _allocate(config, dtype, device, max_positions)
    generator = torch.Generator(device).manual_seed(seed)
    for name, target in targets.items():
        part = target.dest[target.start : target.start + target.rows]
        if name.endswith("bias"):
            part.zero_()
        elif part.dim() == 1:
            part.fill_(1.0)
        else:
            part.normal_(0.0, 0.02, generator=generator)
    return decoder


def shard_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder, index order; ModelNotFoundError if there are none."""
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        single = folder / "model.safetensors"
        if not single.exists():
            other = " (found pickled weights, which are never loaded)" if list(folder.glob("*.bin")) else ""
            raise ModelNotFoundError(f"{folder}: no model.safetensors{other}; save the model with safe_serialization")
        return [single]
    # A shard name is a bare file name: an index must not reach outside its folder.
    files = [folder / Path(name).name for name in shard_names(index, WeightsError)]
    if missing := [f.name for f in files if not is_file(f)]:
        raise WeightsError(f"{folder}: shards missing: {', '.join(missing)}; download the model again")
    return files


def _problems(shards: list[Path], targets: Mapping[str, Target], config: ModelConfig) -> list[str]:
    """Everything in which the shards' headers differ from what the model needs."""
    problems: list[str] = []
    seen: set[str] = set()
    for shard in shards:
        for name, handle in _open(shard):
            target, header = targets.get(name), handle.get_slice(name)
            if target is None:
                tied = name == "lm_head.weight" and config.tie_word_embeddings
                if not tied and not name.endswith(IGNORED_SUFFIXES):
                    problems.append(f"unexpected {name}")
                continue
            seen.add(name)
            if tuple(header.get_shape()) != target.shape:
                problems.append(f"{name} has shape {header.get_shape()}, not {list(target.shape)}")
            elif header.get_dtype() not in _DTYPES:
                problems.append(f"{name} has dtype {header.get_dtype()}, not one of {', '.join(_DTYPES)}")
    return problems + [f"missing {name}" for name in targets if name not in seen]


def _open(shard: Path) -> Iterator[tuple[str, Any]]:
    """(name, open file) for every tensor in a shard."""
    try:
        with safe_open(str(shard), framework="pt") as handle:
            for name in handle.keys():  # noqa: SIM118 - a safe_open handle is no mapping
                yield name, handle
    except (SafetensorError, OSError) as exc:
        raise WeightsError(f"{shard}: truncated or not safetensors ({exc}); download the file again") from exc


def _allocate(
    cfg: ModelConfig, dtype: torch.dtype, device: torch.device, max_positions: int
) -> tuple[Decoder, dict[str, Target]]:
    targets: dict[str, Target] = {}

    def plain(name: str, *shape: int) -> Tensor:
        dest = torch.empty(*shape, dtype=dtype, device=device)
        targets[name] = Target(dest, 0, shape[0])
        return dest

    def fused(prefix: str, parts: dict[str, int], in_features: int, bias: bool) -> Linear:
        total = sum(parts.values())
        weight = torch.empty(total, in_features, dtype=dtype, device=device)
        bias_ = torch.empty(total, dtype=dtype, device=device) if bias else None
        start = 0
        for name, rows in parts.items():
            targets[f"{prefix}.{name}.weight"] = Target(weight, start, rows)
            if bias_ is not None:
                targets[f"{prefix}.{name}.bias"] = Target(bias_, start, rows)
            start += rows
        return Linear(weight, bias_)

    embedding = plain("model.embed_tokens.weight", cfg.vocab_size, cfg.hidden_size)
    layers = []
    for i in range(cfg.num_layers):
        base, hidden, inter = f"model.layers.{i}", cfg.hidden_size, cfg.intermediate_size
        qkv = {"q_proj": cfg.q_size, "k_proj": cfg.kv_size, "v_proj": cfg.kv_size}
        q_norm, k_norm = f"{base}.self_attn.q_norm.weight", f"{base}.self_attn.k_norm.weight"
        layers.append(
            DecoderLayer(
                input_norm=plain(f"{base}.input_layernorm.weight", hidden),
                qkv=fused(f"{base}.self_attn", qkv, hidden, cfg.qkv_bias),
                qk_norm=(plain(q_norm, cfg.head_dim), plain(k_norm, cfg.head_dim)) if cfg.qk_norm else None,
                o=fused(f"{base}.self_attn", {"o_proj": hidden}, cfg.q_size, cfg.o_bias),
                post_norm=plain(f"{base}.post_attention_layernorm.weight", hidden),
                gate_up=fused(f"{base}.mlp", {"gate_proj": inter, "up_proj": inter}, hidden, cfg.mlp_bias),
                down=fused(f"{base}.mlp", {"down_proj": hidden}, inter, cfg.mlp_bias),
            )
        )
    final_norm = plain("model.norm.weight", cfg.hidden_size)
    tied = cfg.tie_word_embeddings
    lm_head = Linear(embedding if tied else plain("lm_head.weight", cfg.vocab_size, cfg.hidden_size))
    rotary = RotaryEmbedding(cfg.rope, cfg.head_dim, max_positions, dtype, device)
    return Decoder(cfg, embedding, layers, final_norm, lm_head, rotary), targets
