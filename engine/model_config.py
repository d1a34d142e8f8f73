"""What a model is, read from Hugging Face's ``config.json``; their spellings live here and in ``rope_config``."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alorakit.engine.config_fields import bad_value, read_bool, read_float, read_int, read_object
from alorakit.engine.errors import ModelNotFoundError, UnsupportedModelError
from alorakit.engine.files import read_json_object
from alorakit.engine.rope_config import RopeConfig, read_rope

_MAX_HEADS, _MAX_LAYERS = 2**16, 10_000


@dataclass(frozen=True)
class _Family:
    """How transformers' classes for an architecture differ: what a missing key means, and what is built in.

    Attributes:
        model_type: The name that goes with the architecture's.
        max_positions: Default of ``max_position_embeddings``.
        kv_heads: Default of ``num_key_value_heads``; None: as many as heads.
        head_dim: Default of ``head_dim``; None: ``hidden_size / num_attention_heads``.
        window: Default of ``sliding_window``; None: the family has no windows.
        biases: Which of ``attention_bias`` and ``mlp_bias`` it reads.
    """

    model_type: str
    max_positions: int = 2048
    kv_heads: int | None = None
    head_dim: int | None = None
    window: int | None = None
    biases: tuple[str, ...] = ()


_BIASES = ("attention_bias", "mlp_bias")
_FAMILIES = {
    "LlamaForCausalLM": _Family("llama", biases=_BIASES),
    "Qwen2ForCausalLM": _Family("qwen2", 32768, kv_heads=32, window=4096),
    "Qwen3ForCausalLM": _Family("qwen3", 32768, kv_heads=32, head_dim=128, window=4096, biases=_BIASES[:1]),
    "MistralForCausalLM": _Family("mistral", 131072, kv_heads=8, window=4096),
    # What transformers makes of a Mistral whose layers differ.
    "MinistralForCausalLM": _Family("ministral", 131072, kv_heads=8, window=4096),
    "GraniteForCausalLM": _Family("granite", biases=_BIASES),
}
SUPPORTED = tuple(_FAMILIES)
# Keys that transformers honours for every architecture, and the values that leave the mathematics as they are here.
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "hidden_act": ("silu", "swish"),
    "is_causal": (None, True),
    "per_layer_config": (None, {}),
    "attention_chunk_size": (None,),
    "kv_sharing_modes": (None,),
}


@dataclass(frozen=True)
class ModelConfig:
    """Shape and constants of a decoder-only model; everything the one decoder needs to differ by family.

    ``max_position_embeddings`` is the longest sequence, scaled by yarn where that applies; ``sliding_windows`` says for
    each layer how many tokens a row sees, itself included (None: all); ``qk_norm`` whether every head of q and k is
    normed before it is rotated.
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    max_position_embeddings: int
    rope: RopeConfig
    tie_word_embeddings: bool
    qkv_bias: bool
    o_bias: bool
    mlp_bias: bool
    qk_norm: bool
    attention_scale: float
    embedding_multiplier: float
    residual_multiplier: float
    logits_divisor: float
    sliding_windows: tuple[int | None, ...]
    eos_token_ids: tuple[int, ...]

    def __post_init__(self) -> None:
        """Check what two values together must fulfil."""
        if self.num_heads % self.num_kv_heads or self.head_dim % 2:
            raise UnsupportedModelError(
                f"config.json: {self.num_heads} heads of {self.head_dim} cannot share {self.num_kv_heads} KV heads"
            )

    @property
    def q_size(self) -> int:
        """Width of the query projection: ``num_heads * head_dim``."""
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Width of the key (or value) projection: ``num_kv_heads * head_dim``."""
        return self.num_kv_heads * self.head_dim

    @classmethod
    def from_folder(cls, folder: str | Path) -> "ModelConfig":
        """Read ``config.json`` and, if present, ``generation_config.json`` (for its end-of-sequence ids)."""
        path = Path(folder)
        remedy = "a model folder needs a valid one"
        generation = path / "generation_config.json"
        return cls.from_hf(
            read_json_object(path / "config.json", ModelNotFoundError, remedy),
            read_json_object(generation, ModelNotFoundError, remedy) if generation.exists() else None,
        )

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any], generation: Mapping[str, Any] | None = None) -> "ModelConfig":
        """Translate a Hugging Face configuration.

        Args:
            raw: Contents of ``config.json`` (transformers 4 or 5 spelling).
            generation: Contents of ``generation_config.json``; its ``eos_token_id`` also ends decoding.

        Raises:
            UnsupportedModelError: Unknown architecture, or a feature that would give wrong answers here.
        """
        arch = _architecture(raw)
        family = _FAMILIES[arch]
        _refuse(arch, family, raw)
        granite = family.model_type == "granite"
        bias, mlp_bias = (read_bool(raw, key) and key in family.biases for key in _BIASES)
        layers = read_int(raw, "num_hidden_layers", high=_MAX_LAYERS)
        hidden, heads = read_int(raw, "hidden_size"), read_int(raw, "num_attention_heads", high=_MAX_HEADS)
        kv_heads = heads if raw.get("num_key_value_heads", 0) is None else family.kv_heads or heads
        head_dim = family.head_dim or hidden // heads
        head_dim = read_int(raw, "head_dim", default=head_dim, null=True, high=_MAX_HEADS)
        vocab = read_int(raw, "vocab_size")
        positions = read_int(raw, "max_position_embeddings", default=family.max_positions)
        rope = read_rope(arch, raw, positions)
        return cls(
            architecture=arch,
            vocab_size=vocab,
            hidden_size=hidden,
            intermediate_size=read_int(raw, "intermediate_size"),
            num_layers=layers,
            num_heads=heads,
            num_kv_heads=read_int(raw, "num_key_value_heads", default=kv_heads, null=True, high=_MAX_HEADS),
            head_dim=head_dim,
            rms_norm_eps=read_float(raw, "rms_norm_eps", 1e-6),
            max_position_embeddings=rope.max_positions(positions),
            rope=rope,
            tie_word_embeddings=read_bool(raw, "tie_word_embeddings"),
            qkv_bias=bias or family.model_type == "qwen2",
            o_bias=bias,
            mlp_bias=mlp_bias,
            qk_norm=family.model_type == "qwen3",
            attention_scale=read_float(raw, "attention_multiplier", 1.0) if granite else head_dim**-0.5,
            embedding_multiplier=read_float(raw, "embedding_multiplier", 1.0) if granite else 1.0,
            residual_multiplier=read_float(raw, "residual_multiplier", 1.0) if granite else 1.0,
            logits_divisor=read_float(raw, "logits_scaling", 1.0) if granite else 1.0,
            sliding_windows=_windows(arch, family, raw, layers),
            eos_token_ids=_eos({"config.json": raw, "generation_config.json": generation or {}}, vocab),
        )


def _architecture(raw: Mapping[str, Any]) -> str:
    listed = raw.get("architectures")
    if listed is not None and not isinstance(listed, list):
        raise bad_value(raw, "architectures", "a list of names")
    arch = listed[0] if listed else raw.get("model_type")
    if arch not in SUPPORTED:
        raise UnsupportedModelError(f"architecture {arch!r:.80} is not supported; supported: {', '.join(SUPPORTED)}")
    return str(arch)


def _refuse(arch: str, family: _Family, raw: Mapping[str, Any]) -> None:
    if raw.get("model_type", family.model_type) != family.model_type:
        raise UnsupportedModelError(
            f"{arch}: model_type={raw['model_type']!r:.80} is not supported; supported: {family.model_type!r}"
        )
    for key, neutral in _NEUTRAL.items():
        if raw.get(key, neutral[0]) not in neutral:
            supported = " or ".join(json.dumps(value) for value in neutral)
            raise UnsupportedModelError(f"{arch}: {key}={raw[key]!r:.80} is not supported; supported: {supported}")
    if quantization := read_object(raw, "quantization_config"):
        method = quantization.get("quant_method")
        raise UnsupportedModelError(f"{arch}: quantized weights ({method}) are not supported; use bfloat16 or float32")


def _windows(arch: str, family: _Family, raw: Mapping[str, Any], layers: int) -> tuple[int | None, ...]:
    """The sliding window of each layer: Mistral's holds for all, Qwen's from ``max_window_layers`` on when it is on."""
    window, first = None, 0
    if raw.get("sliding_window", family.window) is not None:
        window = read_int(raw, "sliding_window", default=family.window)
    if family.model_type in ("qwen2", "qwen3"):
        window = window if read_bool(raw, "use_sliding_window") else None
        first = read_int(raw, "max_window_layers", default=28, low=0)
    elif window is not None and family.window is None:
        raise UnsupportedModelError(f"{arch}: sliding_window={window} is not supported; supported: null")
    kinds = raw.get("layer_types")
    if kinds is None:
        kinds = ["full_attention" if window is None or i < first else "sliding_attention" for i in range(layers)]
    known = ("full_attention", "sliding_attention")[: 1 if window is None else 2]
    if not isinstance(kinds, list) or len(kinds) != layers or not all(kind in known for kind in kinds):
        without = " (there is no sliding_window)" if window is None else ""
        raise bad_value(raw, "layer_types", f"a list of {layers} of {' or '.join(known)}{without}")
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


def _eos(sources: Mapping[str, Mapping[str, Any]], vocab_size: int) -> tuple[int, ...]:
    ids: list[int] = []
    for file, source in sources.items():
        value = source.get("eos_token_id")
        listed = value if isinstance(value, list) else [] if value is None else [value]
        if not all(type(token) is int and 0 <= token < vocab_size for token in listed):
            raise bad_value(source, "eos_token_id", f"null, an id from 0 to {vocab_size - 1}, or a list of those", file)
        ids += listed
    return tuple(dict.fromkeys(ids))
