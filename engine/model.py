"""The one decoder: Llama, Mistral, Qwen and dense Granite models differ only by :class:`ModelConfig`.

The same forward pass serves inference and training. Where keys and values live (paged cache, kept prefix) and
which rows get a low-rank delta are arguments, so nothing here knows of blocks, requests or adapters.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from alorakit.engine.layers import Linear, RotaryEmbedding
from alorakit.engine.model_config import ModelConfig
from alorakit.kernels import ops

if TYPE_CHECKING:
    from alorakit.engine.native_decoder import NativeDecoder

PROJECTIONS = ("qkv", "o", "gate_up", "down")


class Attention(Protocol):
    """Where keys and values go and come from."""

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Keep ``k``, ``v`` [rows, num_kv_heads, head_dim]; attend with ``q`` [rows, num_heads, head_dim].

        Returns:
            [rows, num_heads * head_dim].
        """
        ...


class CompiledLayers(Protocol):
    """The decoder's forward pass, compiled; see ``compiled.CompiledDecoder``."""

    seconds: float

    def forward(self, token_ids: Tensor, positions: Tensor, attention: Attention, lora: "LoraApplier | None") -> Tensor:
        """As ``Decoder.forward``."""
        ...

    def close(self) -> None:
        """Let go of its memory."""
        ...


class LoraApplier(Protocol):
    """Adds the adapters' low-rank deltas to a fused projection's output."""

    def __call__(self, layer: int, projection: str, x: Tensor, out: Tensor) -> Tensor:
        """Return ``out`` plus the delta of the active rows; may change ``out`` in place."""
        ...


@dataclass
class DecoderLayer:
    """Weights of one layer; q/k/v and gate/up fused along the output. ``qk_norm``: the norms of q's and k's heads."""

    input_norm: Tensor
    qkv: Linear
    qk_norm: tuple[Tensor, Tensor] | None
    o: Linear
    post_norm: Tensor
    gate_up: Linear
    down: Linear


@dataclass
class Decoder:
    """A decoder-only model.

    Attributes:
        config: Its shape.
        embedding: [vocab_size, hidden_size].
        layers: One :class:`DecoderLayer` each.
        final_norm: [hidden_size].
        lm_head: [vocab_size, hidden_size]; shares ``embedding`` when tied.
        rotary: Tables up to the longest sequence the engine allows.
        compiled: Its compiled form, which inference uses where it is there.
        native: Its form in C, likewise; the weights are packed then.
    """

    config: ModelConfig
    embedding: Tensor
    layers: list[DecoderLayer]
    final_norm: Tensor
    lm_head: Linear
    rotary: RotaryEmbedding = field(repr=False)
    compiled: CompiledLayers | None = field(default=None, repr=False)
    native: "NativeDecoder | None" = field(default=None, repr=False)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embedding.device

    @property
    def dtype(self) -> torch.dtype:
        """Compute dtype."""
        return self.embedding.dtype

    def pack(self) -> None:
        """Pack every linear layer for CPU inference (oneDNN); the model is no longer differentiable."""
        for layer in self.layers:
            for name in PROJECTIONS:
                getattr(layer, name).pack()
        self.lm_head.pack()

    def widen(self) -> None:
        """Multiply in float32 where the CPU has no bfloat16 products, which makes those 8 to 60 times slower."""
        if self.dtype != torch.bfloat16 or ops.can_pack(self.device, self.dtype):
            return
        for linear in (self.lm_head, *(getattr(layer, name) for layer in self.layers for name in PROJECTIONS)):
            linear.widen()

    def release(self) -> None:
        """Drop the weights; the model cannot be used any more."""
        if self.compiled is not None:
            self.compiled.close()
        self.native = None
        self.layers.clear()
        self.embedding = self.final_norm = self.embedding.new_empty(0)
        self.lm_head = Linear(self.embedding)

    def forward(self, token_ids: Tensor, positions: Tensor, attention: Attention, lora: LoraApplier | None) -> Tensor:
        """Run all layers over a flat batch of rows.

        Args:
            token_ids: int64 [rows].
            positions: int64 [rows].
            attention: Keeps keys and values, and attends.
            lora: Adds adapters' deltas; None when no row of the batch is adapted.

        Returns:
            Hidden states after the final norm, [rows, hidden_size].
        """
        cos, sin = self.rotary.at(positions)
        return self.run_layers(self.embed(token_ids), cos, sin, attention, lora)

    def embed(self, token_ids: Tensor) -> Tensor:
        """Input of the first layer, [rows, hidden_size]."""
        x = F.embedding(token_ids, self.embedding)
        return x if self.config.embedding_multiplier == 1.0 else x * self.config.embedding_multiplier

    def run_layers(self, x: Tensor, cos: Tensor, sin: Tensor, attention: Attention, lora: LoraApplier | None) -> Tensor:
        """:meth:`forward` from :meth:`embed`'s result on; ``cos`` and ``sin`` are ``rotary.at(positions)``."""
        for index in range(len(self.layers)):
            x = self.run_layer(index, x, cos, sin, attention, lora)
        return ops.rms_norm(x, self.final_norm, self.config.rms_norm_eps)

    def run_layer(
        self, index: int, x: Tensor, cos: Tensor, sin: Tensor, attention: Attention, lora: LoraApplier | None
    ) -> Tensor:
        """One layer of :meth:`run_layers`; x and the result [rows, hidden_size]."""
        layer = self.layers[index]
        x = self._residual(x, self._attend(index, layer, x, cos, sin, attention, lora))
        return self._residual(x, self._mlp(index, layer, x, lora))

    def queries_keys_values(
        self, index: int, x: Tensor, cos: Tensor, sin: Tensor, lora: LoraApplier | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What layer ``index`` attends with, each [rows, heads or KV heads, head_dim], given its input ``x``."""
        cfg, layer = self.config, self.layers[index]
        h = ops.rms_norm(x, layer.input_norm, cfg.rms_norm_eps)
        qkv = layer.qkv(h)
        if lora is not None:
            qkv = lora(index, "qkv", h, qkv)
        heads = qkv.view(qkv.shape[0], cfg.num_heads + 2 * cfg.num_kv_heads, cfg.head_dim)
        qk, v = heads.split([cfg.num_heads + cfg.num_kv_heads, cfg.num_kv_heads], dim=1)
        if layer.qk_norm is not None:
            qk = self._norm_heads(qk, *layer.qk_norm)
        q, k = ops.rope(qk, cos, sin).split([cfg.num_heads, cfg.num_kv_heads], dim=1)
        return q, k, v

    def logits(self, hidden: Tensor) -> Tensor:
        """Next-token logits, float32 [rows, vocab_size], of hidden states [rows, hidden_size]."""
        native = self.native
        head = native.head if native is not None and native.takes(hidden.shape[0]) else self.lm_head
        logits = head(hidden).float()
        return logits if self.config.logits_divisor == 1.0 else logits / self.config.logits_divisor

    def _attend(
        self,
        index: int,
        layer: DecoderLayer,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        attention: Attention,
        lora: LoraApplier | None,
    ) -> Tensor:
        q, k, v = self.queries_keys_values(index, x, cos, sin, lora)
        a = attention(index, q, k, v)
        out = layer.o(a)
        return out if lora is None else lora(index, "o", a, out)

    def _norm_heads(self, qk: Tensor, q_weight: Tensor, k_weight: Tensor) -> Tensor:
        """Norm each head of ``qk`` [rows, num_heads + num_kv_heads, head_dim]; the weights are [head_dim]."""
        cfg = self.config
        q, k = qk.split([cfg.num_heads, cfg.num_kv_heads], dim=1)
        q, k = ops.rms_norm(q, q_weight, cfg.rms_norm_eps), ops.rms_norm(k, k_weight, cfg.rms_norm_eps)
        return torch.cat([q, k], dim=1)

    def _mlp(self, index: int, layer: DecoderLayer, x: Tensor, lora: LoraApplier | None) -> Tensor:
        h = ops.rms_norm(x, layer.post_norm, self.config.rms_norm_eps)
        gate_up = layer.gate_up(h)
        if lora is not None:
            gate_up = lora(index, "gate_up", h, gate_up)
        h = ops.silu_mul(gate_up)
        out = layer.down(h)
        return out if lora is None else lora(index, "down", h, out)

    def _residual(self, x: Tensor, delta: Tensor) -> Tensor:
        scale = self.config.residual_multiplier
        return x + delta if scale == 1.0 else torch.add(x, delta, alpha=scale)
