"""What a model is, read from Hugging Face's ``config.json``; their spellings live here and nowhere else."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alorakit.engine.errors import ModelNotFoundError, UnsupportedModelError
from alorakit.engine.files import read_json_object

SUPPORTED = ("LlamaForCausalLM", "Qwen2ForCausalLM", "GraniteForCausalLM")
ROPE_TYPES = ("default", "linear", "llama3")
_REMEDY = "correct it or download the model again"
# Far above every real model, and low enough that no product of two sizes overflows.
_MAX_SIZE, _MAX_HEADS, _MAX_LAYERS, _MAX_FLOAT = 2**24, 2**16, 10_000, 1e12


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
        _refuse(arch, raw)
        granite, qwen2 = arch == "GraniteForCausalLM", arch == "Qwen2ForCausalLM"
        layers = _int(raw, "num_hidden_layers", high=_MAX_LAYERS)
        hidden, heads = _int(raw, "hidden_size"), _int(raw, "num_attention_heads", high=_MAX_HEADS)
        vocab, bias = _int(raw, "vocab_size"), _bool(raw, "attention_bias")
        head_dim = _int(raw, "head_dim", default=hidden // heads, null=True, high=_MAX_HEADS)
        return cls(
            architecture=arch,
            vocab_size=vocab,
            hidden_size=hidden,
            intermediate_size=_int(raw, "intermediate_size"),
            num_layers=layers,
            num_heads=heads,
            num_kv_heads=_int(raw, "num_key_value_heads", default=heads, null=True, high=_MAX_HEADS),
            head_dim=head_dim,
            rms_norm_eps=_float(raw, "rms_norm_eps", 1e-6),
            max_position_embeddings=_int(raw, "max_position_embeddings", default=2048),
            rope=_rope(arch, raw),
            tie_word_embeddings=_bool(raw, "tie_word_embeddings"),
            qkv_bias=True if qwen2 else bias,
            o_bias=False if qwen2 else bias,
            mlp_bias=_bool(raw, "mlp_bias") and not qwen2,
            attention_scale=_float(raw, "attention_multiplier", 1.0) if granite else head_dim**-0.5,
            embedding_multiplier=_float(raw, "embedding_multiplier", 1.0) if granite else 1.0,
            residual_multiplier=_float(raw, "residual_multiplier", 1.0) if granite else 1.0,
            logits_divisor=_float(raw, "logits_scaling", 1.0) if granite else 1.0,
            sliding_windows=_windows(raw, layers) if qwen2 else (None,) * layers,
            eos_token_ids=_eos({"config.json": raw, "generation_config.json": generation or {}}, vocab),
        )


def _bad(raw: Mapping[str, Any], key: str, wanted: str, file: str = "config.json") -> UnsupportedModelError:
    found = f"{key}={raw[key]!r:.80}" if key in raw else f"{key} is missing;"
    return UnsupportedModelError(f"{file}: {found} must be {wanted}; {_REMEDY}")


def _int(
    raw: Mapping[str, Any],
    key: str,
    default: int | None = None,
    null: bool = False,
    low: int = 1,
    high: int = _MAX_SIZE,
) -> int:
    """``raw[key]``; the default if the key is missing, or null where ``null`` says that null means the default."""
    value = raw.get(key) if null else raw.get(key, default)
    value = default if value is None and null else value
    if type(value) is not int or not low <= value <= high:
        raise _bad(raw, key, f"an integer from {low} to {high}")
    return value


def _float(raw: Mapping[str, Any], key: str, default: float) -> float:
    value = raw.get(key, default)
    if type(value) not in (int, float) or not 0 < value <= _MAX_FLOAT:
        raise _bad(raw, key, f"a number above 0, up to {_MAX_FLOAT:g}")
    return float(value)


def _bool(raw: Mapping[str, Any], key: str) -> bool:
    value = raw.get(key)
    if value is not None and not isinstance(value, bool):
        raise _bad(raw, key, "true or false")
    return bool(value)


def _object(raw: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = raw.get(key)
    if value is not None and not isinstance(value, Mapping):
        raise _bad(raw, key, "an object")
    return value or {}


def _architecture(raw: Mapping[str, Any]) -> str:
    listed = raw.get("architectures")
    if listed is not None and not isinstance(listed, list):
        raise _bad(raw, "architectures", "a list of names")
    arch = listed[0] if listed else raw.get("model_type")
    if arch not in SUPPORTED:
        raise UnsupportedModelError(f"architecture {arch!r:.80} is not supported; supported: {', '.join(SUPPORTED)}")
    return str(arch)


def _refuse(arch: str, raw: Mapping[str, Any]) -> None:
    act = raw.get("hidden_act", "silu")
    if act not in ("silu", "swish"):
        raise UnsupportedModelError(f"{arch}: hidden_act={act!r} is not supported; supported: silu")
    if quantization := _object(raw, "quantization_config"):
        method = quantization.get("quant_method")
        raise UnsupportedModelError(f"{arch}: quantized weights ({method}) are not supported; use bfloat16 or float32")
    if raw.get("partial_rotary_factor") not in (None, 1):
        raise UnsupportedModelError(f"{arch}: partial_rotary_factor={raw['partial_rotary_factor']!r} is not supported")


def _rope(arch: str, raw: Mapping[str, Any]) -> RopeConfig:
    # transformers 5 keeps everything in rope_parameters; 4 has rope_theta beside rope_scaling.
    params = {**_object(raw, "rope_scaling"), **_object(raw, "rope_parameters")}
    kind = params.get("rope_type") or params.get("type") or "default"
    if kind not in ROPE_TYPES:
        why = " (its frequencies depend on the sequence length, so cached keys would be wrong)"
        raise UnsupportedModelError(
            f"{arch}: rope type {kind!r:.80} is not supported{why if kind in ('dynamic', 'longrope') else ''}; "
            f"supported: {', '.join(ROPE_TYPES)}"
        )
    thetas = [source for source in (params, raw) if source.get("rope_theta") is not None]
    theta = _float(thetas[0], "rope_theta", 1e4) if thetas else 1e4
    if kind == "default":
        return RopeConfig(theta)
    rope = RopeConfig(
        theta=theta,
        kind=kind,
        factor=_float(params, "factor", 1.0),
        low_freq_factor=_float(params, "low_freq_factor", 1.0),
        high_freq_factor=_float(params, "high_freq_factor", 4.0),
        original_max_position_embeddings=_int(params, "original_max_position_embeddings", default=8192),
    )
    if kind == "llama3" and rope.high_freq_factor <= rope.low_freq_factor:
        raise _bad(params, "high_freq_factor", f"above low_freq_factor={rope.low_freq_factor}")
    return rope


def _windows(raw: Mapping[str, Any], layers: int) -> tuple[int | None, ...]:
    if not _bool(raw, "use_sliding_window") or raw.get("sliding_window") is None:
        return (None,) * layers
    window, kinds = _int(raw, "sliding_window"), raw.get("layer_types")
    if kinds is None:
        first = _int(raw, "max_window_layers", default=28, low=0)
        kinds = ["sliding_attention" if i >= first else "full_attention" for i in range(layers)]
    known = ("sliding_attention", "full_attention")
    if not isinstance(kinds, list) or len(kinds) != layers or not all(kind in known for kind in kinds):
        raise _bad(raw, "layer_types", f"a list of {layers} of {' or '.join(known)}")
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


def _eos(sources: Mapping[str, Mapping[str, Any]], vocab_size: int) -> tuple[int, ...]:
    ids: list[int] = []
    for file, source in sources.items():
        value = source.get("eos_token_id")
        listed = value if isinstance(value, list) else [] if value is None else [value]
        if not all(type(token) is int and 0 <= token < vocab_size for token in listed):
            raise _bad(source, "eos_token_id", f"null, an id from 0 to {vocab_size - 1}, or a list of those", file)
        ids += listed
    return tuple(dict.fromkeys(ids))
