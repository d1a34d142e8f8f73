"""Adapters as the registry and sequences hold them: compact weights in host memory, their own dtype."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from alorakit.engine.adapter_config import tensor_name as tensor_name
from alorakit.engine.manifest import Manifest
from alorakit.engine.model_config import ModelConfig

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

    @property
    def temperature(self) -> float:
        """What candidates' log-probabilities are divided by before their probabilities are taken; 1 by default."""
        return 1.0 if self.manifest is None else self.manifest.temperature


@dataclass(frozen=True, eq=False)
class LoraPair:
    """Low-rank weights of one linear layer, as the file holds them.

    Attributes:
        a: [rank, in_features].
        b: [out_features, rank].
        scaling: Factor of the delta ``B (A x)``.
    """

    a: Tensor
    b: Tensor
    scaling: float

    @property
    def rank(self) -> int:
        """Rows of A, columns of B."""
        return self.a.shape[0]

    def scaled_b(self) -> Tensor:
        """B times the scaling, float32."""
        return self.b.float() * self.scaling


@dataclass(frozen=True, eq=False)
class AdapterWeights:
    """An adapter's tensors on the CPU; one object for all names under which the same digest is registered.

    Attributes:
        pairs: (layer, target) -> its low-rank pair.
    """

    pairs: Mapping[tuple[int, str], LoraPair]


@dataclass(frozen=True, eq=False)
class Adapter:
    """An adapter in host memory; ``AdapterSlots`` brings it to the device.

    Attributes:
        info: What it is.
        weights: Its tensors.
    """

    info: AdapterInfo
    weights: AdapterWeights

    def find_activation(self, tokens: list[int]) -> int | None:
        """Index of the first adapted token of a prompt: 0 for a LoRA, the last invocation's start for an aLoRA."""
        if self.info.invocation_tokens is None:
            return 0
        return find_last(tokens, self.info.invocation_tokens)


def find_last(tokens: list[int], pattern: tuple[int, ...]) -> int | None:
    """Start of the last occurrence of ``pattern`` in ``tokens``, or None."""
    last, first, size = len(tokens) - 1, pattern[0], len(pattern)
    backwards = tokens[::-1]  # a list finds a token quickly from its beginning only
    at = size - 1
    while True:
        try:
            at = backwards.index(first, at)
        except ValueError:
            return None
        start = last - at
        if tuple(tokens[start : start + size]) == pattern:
            return start
        at += 1


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
