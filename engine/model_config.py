"""What a model is, read from Hugging Face's ``config.json``; their spellings live here and nowhere else."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alorakit.engine.errors import ModelNotFoundError, UnsupportedModelError
from alorakit.engine.files import read_json_object

SUPPORTED = ("LlamaForCausalLM", "Qwen2ForCausalLM", "GraniteForCausalLM")
ROPE_TYPES = ("default", "linear", "llama3")


@dataclass(frozen=True)
class RopeConfig:
    """Rotary embedding: base frequency and scaling rule (names as in transformers' ``ROPE_INIT_FUNCTIONS``)."""

    theta: float = 10000.0
    kind: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192


@dataclass(frozen=True)
class ModelConfig:
    """Shape and constants of a decoder-only model; everything the one decoder needs to differ by family."""

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
    attention_scale: float
    embedding_multiplier: float
    residual_multiplier: float
    logits_divisor: float
    sliding_windows: tuple[int | None, ...]
    eos_token_ids: tuple[int, ...]
    name_or_path: str

    def __post_init__(self) -> None:
        """Check what the tensors' shapes depend on."""
        names = (
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_layers",
            "num_heads",
            "num_kv_heads",
            "head_dim",
        )
        for name in (*names, "max_position_embeddings"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise UnsupportedModelError(f"config.json: {name}={value!r} must be an integer of at least 1")
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
        listed = raw.get("architectures")
        arch = listed[0] if isinstance(listed, list) and listed else raw.get("model_type")
        if arch not in SUPPORTED:
            raise UnsupportedModelError(f"architecture {arch!r} is not supported; supported: {', '.join(SUPPORTED)}")
        try:
            _refuse(arch, raw)
            hidden, heads, layers = raw["hidden_size"], raw["num_attention_heads"], raw["num_hidden_layers"]
            head_dim = raw.get("head_dim") or hidden // heads
            granite = arch == "GraniteForCausalLM"
            qwen2 = arch == "Qwen2ForCausalLM"
            bias = bool(raw.get("attention_bias", False))
            return cls(
                architecture=arch,
                vocab_size=raw["vocab_size"],
                hidden_size=hidden,
                intermediate_size=raw["intermediate_size"],
                num_layers=layers,
                num_heads=heads,
                num_kv_heads=raw.get("num_key_value_heads") or heads,
                head_dim=head_dim,
                rms_norm_eps=float(raw.get("rms_norm_eps", 1e-6)),
                max_position_embeddings=int(raw.get("max_position_embeddings", 2048)),
                rope=_rope(arch, raw),
                tie_word_embeddings=bool(raw.get("tie_word_embeddings", False)),
                qkv_bias=True if qwen2 else bias,
                o_bias=False if qwen2 else bias,
                mlp_bias=bool(raw.get("mlp_bias", False)) and not qwen2,
                attention_scale=float(raw.get("attention_multiplier", 1.0)) if granite else head_dim**-0.5,
                embedding_multiplier=float(raw.get("embedding_multiplier", 1.0)) if granite else 1.0,
                residual_multiplier=float(raw.get("residual_multiplier", 1.0)) if granite else 1.0,
                logits_divisor=float(raw.get("logits_scaling", 1.0)) if granite else 1.0,
                sliding_windows=_windows(raw, layers) if qwen2 else (None,) * layers,
                eos_token_ids=_eos(raw, generation or {}),
                name_or_path=str(raw.get("_name_or_path") or ""),
            )
        except KeyError as exc:
            raise UnsupportedModelError(
                f"config.json of {arch} lacks {exc}; it is not a complete model folder"
            ) from exc
        except (TypeError, ValueError, AttributeError, ZeroDivisionError) as exc:
            raise UnsupportedModelError(
                f"config.json of {arch} has a value of the wrong type ({exc}); download it again"
            ) from exc


def _refuse(arch: str, raw: Mapping[str, Any]) -> None:
    act = raw.get("hidden_act", "silu")
    if act not in ("silu", "swish"):
        raise UnsupportedModelError(f"{arch}: hidden_act={act!r} is not supported; supported: silu")
    if raw.get("quantization_config"):
        method = raw["quantization_config"].get("quant_method")
        raise UnsupportedModelError(f"{arch}: quantized weights ({method}) are not supported; use bfloat16 or float32")
    if (raw.get("partial_rotary_factor") or 1.0) != 1.0:
        raise UnsupportedModelError(f"{arch}: partial_rotary_factor={raw['partial_rotary_factor']} is not supported")


def _rope(arch: str, raw: Mapping[str, Any]) -> RopeConfig:
    # transformers 5 keeps everything in rope_parameters; 4 has rope_theta beside rope_scaling.
    params = dict(raw.get("rope_scaling") or {}) | dict(raw.get("rope_parameters") or {})
    kind = params.get("rope_type") or params.get("type") or "default"
    if kind not in ROPE_TYPES:
        why = " (its frequencies depend on the sequence length, so cached keys would be wrong)"
        raise UnsupportedModelError(
            f"{arch}: rope type {kind!r} is not supported{why if kind in ('dynamic', 'longrope') else ''}; "
            f"supported: {', '.join(ROPE_TYPES)}"
        )
    return RopeConfig(
        theta=float(params.get("rope_theta") or raw.get("rope_theta") or 10000.0),
        kind=kind,
        factor=float(params.get("factor", 1.0)),
        low_freq_factor=float(params.get("low_freq_factor", 1.0)),
        high_freq_factor=float(params.get("high_freq_factor", 4.0)),
        original_max_position_embeddings=int(params.get("original_max_position_embeddings", 8192)),
    )


def _windows(raw: Mapping[str, Any], layers: int) -> tuple[int | None, ...]:
    window = raw.get("sliding_window")
    if not raw.get("use_sliding_window") or window is None:
        return (None,) * layers
    kinds = raw.get("layer_types")
    if kinds is None:
        first = raw.get("max_window_layers", 28)
        kinds = ["sliding_attention" if i >= first else "full_attention" for i in range(layers)]
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


def _eos(raw: Mapping[str, Any], generation: Mapping[str, Any]) -> tuple[int, ...]:
    ids: list[int] = []
    for source in (raw, generation):
        value = source.get("eos_token_id")
        ids += value if isinstance(value, list) else [] if value is None else [value]
    return tuple(dict.fromkeys(int(i) for i in ids))
