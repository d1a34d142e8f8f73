"""Rotary embedding as a model's ``config.json`` describes it, read as transformers reads it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from alorakit.engine.config_fields import MAX_SIZE, bad_value, read_bool, read_float, read_int, read_object
from alorakit.engine.errors import UnsupportedModelError

ROPE_TYPES = ("default", "linear", "llama3", "yarn")
# What transformers knows, and leaves alone where the type has no use for it; "finetuned" is a remark.
_KNOWN_KEYS = (
    "rope_theta", "rope_type", "type", "factor", "original_max_position_embeddings", "attention_factor", "beta_fast",
    "beta_slow", "mscale", "mscale_all_dim", "truncate", "low_freq_factor", "high_freq_factor", "short_factor",
    "long_factor", "partial_rotary_factor", "finetuned",
)  # fmt: skip


@dataclass(frozen=True)
class RopeConfig:
    """Rotary embedding: base frequency and scaling rule (names as in transformers' ``ROPE_INIT_FUNCTIONS``).

    Attributes:
        theta: Base of the frequencies.
        kind: One of ``ROPE_TYPES``.
        factor: How much longer than the original the context is (linear, llama3, yarn).
        original_max_position_embeddings: Positions of the pre-training (llama3, yarn).
        low_freq_factor: Wavelengths above original / low_freq_factor are stretched (llama3).
        high_freq_factor: Wavelengths below original / high_freq_factor are not (llama3).
        beta_fast: Frequencies that turn more often than this over the original context are not stretched (yarn).
        beta_slow: Frequencies that turn less often than this are stretched in full (yarn).
        truncate: Whether the bounds of beta are rounded outwards to whole dimensions (yarn).
        attention_factor: Multiplies cosine and sine, hence scores by its square; 1 but for yarn.
    """

    theta: float = 10000.0
    kind: str = "default"
    factor: float = 1.0
    original_max_position_embeddings: int = 8192
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float = 1.0

    def max_positions(self, declared: int) -> int:
        """Longest sequence, given ``max_position_embeddings``.

        With yarn that may be the original length still (Qwen's model cards add only the scaling) or the stretched
        one; transformers runs either to the stretched length.
        """
        if self.kind != "yarn":
            return declared
        return max(declared, int(self.factor * self.original_max_position_embeddings))


def read_rope(arch: str, raw: Mapping[str, Any], max_positions: int) -> RopeConfig:
    """Read ``rope_parameters`` (transformers 5), or ``rope_scaling`` beside ``rope_theta`` (transformers 4).

    Args:
        arch: The architecture's name, for messages.
        raw: Contents of ``config.json``.
        max_positions: Its ``max_position_embeddings``: the original length where none is given.

    Raises:
        UnsupportedModelError: A type or parameter that would give wrong answers here, or a value out of range.
    """
    params = read_object(raw, "rope_scaling") or read_object(raw, "rope_parameters")
    kind = params.get("rope_type") or params.get("type") or "default"
    _refuse(arch, kind, params, raw)
    thetas = [source for source in (params, raw) if source.get("rope_theta") is not None]
    theta = read_float(thetas[0], "rope_theta") if thetas else 1e4
    if kind == "default":
        return RopeConfig(theta)
    if kind == "linear":
        return RopeConfig(theta, kind, read_float(params, "factor"))
    # A length beside the parameters goes before one among them.
    source = raw if "original_max_position_embeddings" in raw else params
    original = read_int(source, "original_max_position_embeddings", default=max_positions)
    if kind == "llama3":
        return _llama3(theta, original, params)
    return _yarn(theta, original, max_positions, params)


def _refuse(arch: str, kind: object, params: Mapping[str, Any], raw: Mapping[str, Any]) -> None:
    if kind not in ROPE_TYPES:
        why = " (its frequencies depend on the sequence length, so cached keys would be wrong)"
        raise UnsupportedModelError(
            f"{arch}: rope type {kind!r:.80} is not supported{why if kind in ('dynamic', 'longrope') else ''}; "
            f"supported: {', '.join(ROPE_TYPES)}"
        )
    if unknown := [key for key, value in params.items() if key not in _KNOWN_KEYS and value is not None]:
        raise UnsupportedModelError(
            f"{arch}: rope parameter {unknown[0]}={params[unknown[0]]!r:.80} is not supported; remove it if the model "
            "does without"
        )
    for source in (params, raw):
        if source.get("partial_rotary_factor") not in (None, 1):
            found = source["partial_rotary_factor"]
            raise UnsupportedModelError(f"{arch}: partial_rotary_factor={found!r:.80} is not supported; supported: 1")


def _llama3(theta: float, original: int, params: Mapping[str, Any]) -> RopeConfig:
    low, high = read_float(params, "low_freq_factor"), read_float(params, "high_freq_factor")
    if high <= low:
        raise bad_value(params, "high_freq_factor", f"above low_freq_factor={low}")
    return RopeConfig(theta, "llama3", read_float(params, "factor"), original, low, high)


def _yarn(theta: float, original: int, max_positions: int, params: Mapping[str, Any]) -> RopeConfig:
    # Without the key transformers refuses, with null it divides the lengths.
    null = "factor" in params and params["factor"] is None
    factor = max_positions / original if null else read_float(params, "factor")
    if factor * original > MAX_SIZE:
        raise bad_value(params, "factor", f"{MAX_SIZE / original:g} at most, for {original} original positions")
    if theta <= 1:
        raise UnsupportedModelError(f"config.json: rope_theta={theta} must be above 1 for rope type 'yarn'")
    return RopeConfig(
        theta=theta,
        kind="yarn",
        factor=factor,
        original_max_position_embeddings=original,
        beta_fast=_optional(params, "beta_fast") or 32.0,
        beta_slow=_optional(params, "beta_slow") or 1.0,
        truncate=read_bool(params, "truncate") if "truncate" in params else True,
        attention_factor=_attention_factor(params, factor),
    )


def _attention_factor(params: Mapping[str, Any], factor: float) -> float:
    """The square root of YaRN's temperature, ``0.1 ln(factor) + 1`` (Peng et al. 2023, equation 22), if not given."""
    if params.get("attention_factor") is not None:
        return read_float(params, "attention_factor")

    def root(scale: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0

    scale, scale_all = _optional(params, "mscale"), _optional(params, "mscale_all_dim")
    return root(scale) / root(scale_all) if scale and scale_all else root(1.0)


def _optional(params: Mapping[str, Any], key: str) -> float | None:
    """A number above 0, or None if it is missing, null or 0."""
    return None if params.get(key) in (None, 0) else read_float(params, key)
