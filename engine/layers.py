"""Building blocks of the decoder: linear layers that may be packed, rotary tables."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from alorakit.engine.rope_config import RopeConfig
from alorakit.kernels import ops


class Linear:
    """``x W^T + bias``, the weight plain or packed once by oneDNN.

    Attributes:
        weight: [out_features, in_features]; opaque layout once packed.
        bias: [out_features] or None.
        packed: Whether :meth:`pack` was called; a packed layer is not differentiable.
        wide: Whether products are computed in float32, see :meth:`widen`.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """Wrap a weight [out_features, in_features] and an optional bias."""
        self.weight, self.bias, self.packed, self.wide = weight, bias, False, False

    def pack(self) -> None:
        """Replace the weight by its packed form; the plain one is freed."""
        self.weight, self.packed = ops.pack_weight(self.weight), True

    def widen(self) -> None:
        """For many rows on a CPU without bfloat16 products: multiply in float32, keeping the weight as it is."""
        self.wide = True

    def __call__(self, x: Tensor) -> Tensor:
        """[rows, in_features] -> [rows, out_features]."""
        if self.wide:
            return ops.linear_wide(x, self.weight, self.bias)
        return ops.linear_packed(x, self.weight, self.bias) if self.packed else F.linear(x, self.weight, self.bias)


def inverse_frequencies(rope: RopeConfig, head_dim: int) -> Tensor:
    """Rotary frequencies [head_dim / 2], float32, as transformers' ``ROPE_INIT_FUNCTIONS`` computes them."""
    inv = 1.0 / rope.theta ** (torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim)
    if rope.kind == "linear":
        return inv / rope.factor
    if rope.kind == "llama3":
        old = rope.original_max_position_embeddings
        low, high = old / rope.low_freq_factor, old / rope.high_freq_factor
        wavelength = 2 * math.pi / inv
        smooth = (old / wavelength - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
        blended = (1 - smooth) * inv / rope.factor + smooth * inv
        scaled = torch.where(wavelength > low, inv / rope.factor, inv)
        return torch.where((wavelength <= low) & (wavelength >= high), blended, scaled)
    if rope.kind == "yarn":
        return _yarn_frequencies(rope, head_dim)
    return inv


def _yarn_frequencies(rope: RopeConfig, head_dim: int) -> Tensor:
    """Fast frequencies as they are, slow ones divided by the factor, a ramp between (Peng et al. 2023, section 3.2)."""

    def dimension(turns: float) -> float:
        """The dimension whose frequency makes that many turns over the original context."""
        return head_dim * math.log(rope.original_max_position_embeddings / (turns * 2 * math.pi)) / log_base

    log_base = 2 * math.log(rope.theta)
    low, high = dimension(rope.beta_fast), dimension(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    if low == high:
        high += 0.001  # as transformers does, against a division by zero
    divided = ((torch.arange(head_dim // 2, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)
    kept = 1 - divided
    powers = rope.theta ** (torch.arange(0, head_dim, 2).float() / head_dim)
    return 1.0 / (rope.factor * powers) * (1 - kept) + 1.0 / powers * kept


class RotaryEmbedding:
    """Cosine and sine tables for every position up to the longest sequence."""

    def __init__(
        self, rope: RopeConfig, head_dim: int, max_positions: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        """Compute the tables [max_positions, 1, head_dim] in float32, then round to ``dtype``."""
        angles = torch.outer(torch.arange(max_positions).float(), inverse_frequencies(rope, head_dim))
        cos, sin = angles.cos() * rope.attention_factor, angles.sin() * rope.attention_factor
        self._cos = torch.cat([cos, cos], -1)[:, None].to(device, dtype)
        self._sin = torch.cat([-sin, sin], -1)[:, None].to(device, dtype)

    @property
    def tables(self) -> tuple[Tensor, Tensor]:
        """(cos, sin) of all positions, [max_positions, head_dim] each; see ``ops.rope``."""
        return self._cos[:, 0], self._sin[:, 0]

    def at(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """(cos, sin), each [rows, 1, head_dim], for int64 ``positions`` [rows]; see ``ops.rope``."""
        return self._cos[positions], self._sin[positions]
