"""How fast a step can be at best: the bytes that must move, the operations that must be done, and the time they take.

Counted are weights, output layer, keys and values, and low-rank weights, each read once a step whatever the batch; an
adapter's are read once however many rows use it, keys that several sequences share once for all of them. Not counted
are activations (64 rows of an 8B model: 40 MB a step against 16 GB of weights if every kernel wrote them out), norms,
embedding rows and rotary tables. Every layer is taken to attend to everything: there are no sliding windows here. The
time is that of whichever takes longer, since one can hide behind the other (Williams et al. 2009).
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from alorakit.engine.adapters import FUSED, linear_shapes
from alorakit.engine.model_config import ModelConfig
from benchmarks.machine import Machine

QKV = FUSED["qkv"]
ALL_SEVEN = tuple(target for targets in FUSED.values() for target in targets)


@dataclass(frozen=True)
class ModelShape:
    """What of a model decides its bytes and operations.

    Attributes:
        config: Its sizes.
        itemsize: Bytes of a weight, and of an element of the cache.
    """

    config: ModelConfig
    itemsize: int = 2

    @property
    def layer_params(self) -> int:
        """Weights of one layer's linear layers."""
        return sum(inputs * outputs for inputs, outputs in linear_shapes(self.config).values())

    @property
    def head_params(self) -> int:
        """Weights of the output layer, which a tied model reads too."""
        return self.config.hidden_size * self.config.vocab_size

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights that a step reads."""
        return (self.config.num_layers * self.layer_params + self.head_params) * self.itemsize

    @property
    def kv_bytes(self) -> int:
        """Bytes of one token's keys and values over all layers."""
        return 2 * self.config.num_layers * self.config.kv_size * self.itemsize

    def lora_params(self, rank: int, targets: Sequence[str]) -> int:
        """Weights of an adapter, A and B of every target in every layer."""
        shapes = linear_shapes(self.config)
        return self.config.num_layers * rank * sum(sum(shapes[target]) for target in targets)


# The 8B model of the "must show" list: Granite 3's sizes and constants, as its config.json has them.
GRANITE_8B_CONFIG: dict[str, Any] = {
    "architectures": ["GraniteForCausalLM"],
    "vocab_size": 49155,
    "hidden_size": 4096,
    "intermediate_size": 12800,
    "num_hidden_layers": 40,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "rope_theta": 1e7,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "embedding_multiplier": 12.0,
    "attention_multiplier": 0.0078125,
    "residual_multiplier": 0.22,
    "logits_scaling": 16.0,
    "eos_token_id": 0,
}
GRANITE_8B = ModelShape(ModelConfig.from_hf(GRANITE_8B_CONFIG))


@dataclass(frozen=True)
class Lora:
    """Rank and targets of the adapters in a step; all alike."""

    rank: int = 32
    targets: Sequence[str] = QKV


@dataclass(frozen=True)
class Rows:
    """Rows of one sequence in a step.

    Attributes:
        new: Rows that enter the model; their keys and values are written.
        cached: Tokens before them, whose keys and values are read.
        adapter: Which adapter they use, any hashable; None: the base model.
        adapted: How many of them are adapted; None: all.
        logits: Rows whose logits are wanted.
    """

    new: int = 1
    cached: int = 0
    adapter: Hashable | None = None
    adapted: int | None = None
    logits: int = 1

    @property
    def num_adapted(self) -> int:
        """Rows that an adapter changes."""
        if self.adapter is None:
            return 0
        return self.new if self.adapted is None else self.adapted

    @property
    def pairs(self) -> int:
        """Pairs of a row and a token that it sees."""
        return self.new * self.cached + self.new * (self.new + 1) // 2


@dataclass(frozen=True)
class Step:
    """One forward pass: bytes and operations.

    Attributes:
        weights: Bytes of the layers' weights.
        head: Bytes of the output layer.
        kv_read: Bytes of keys and values read.
        kv_written: Bytes of keys and values written.
        lora: Bytes of the adapters' weights.
        flops: Operations.
    """

    weights: int
    head: int
    kv_read: int
    kv_written: int
    lora: int
    flops: int

    @property
    def bytes(self) -> int:
        """All bytes."""
        return self.weights + self.head + self.kv_read + self.kv_written + self.lora

    def seconds(self, machine: Machine) -> float:
        """The time that the step needs at least."""
        return max(self.bytes / machine.bandwidth, self.flops / machine.matrix_rate)


def step(shape: ModelShape, rows: Sequence[Rows], lora: Lora | None = None, shared: int = 0) -> Step:
    """A step over any rows.

    Args:
        shape: The model.
        rows: Of each sequence.
        lora: What its adapters are like; None if no row has one.
        shared: Leading cached tokens that all sequences have in common, and that are read once for all.
    """
    layers = shape.config.num_layers
    lora_params = 0 if lora is None else shape.lora_params(lora.rank, lora.targets)
    num_adapters = len({part.adapter for part in rows if part.num_adapted})
    num_rows, num_logits = sum(part.new for part in rows), sum(part.logits for part in rows)
    read = sum(part.cached + part.new for part in rows) - shared * (len(rows) - 1)
    products = num_rows * layers * shape.layer_params + num_logits * shape.head_params
    products += sum(part.num_adapted for part in rows) * lora_params
    # Scores and weighted sums: two products of q_size for each row, each token it sees and each layer.
    products += 2 * layers * shape.config.q_size * sum(part.pairs for part in rows)
    return Step(
        weights=layers * shape.layer_params * shape.itemsize,
        head=shape.head_params * shape.itemsize if num_logits else 0,
        kv_read=read * shape.kv_bytes,
        kv_written=num_rows * shape.kv_bytes,
        lora=num_adapters * lora_params * shape.itemsize,
        flops=2 * products,
    )


def decode(
    shape: ModelShape,
    contexts: Sequence[int],
    lora: Lora | None = None,
    adapters: Sequence[Hashable | None] = (),
    shared: int = 0,
) -> Step:
    """One row for each sequence.

    Args:
        shape: The model.
        contexts: Tokens that each row sees, its own included.
        lora: See :func:`step`.
        adapters: Each sequence's; empty: none has one.
        shared: See :func:`step`.
    """
    chosen = list(adapters) or [None] * len(contexts)
    rows = [Rows(1, context - 1, adapter) for context, adapter in zip(contexts, chosen, strict=True)]
    return step(shape, rows, lora, shared)


def prefill(shape: ModelShape, tokens: int, cached: int = 0, lora: Lora | None = None, adapted: int = 0) -> Step:
    """Read ``tokens`` tokens after ``cached`` ones in one step; ``adapted`` of them have an adapter."""
    return step(shape, [Rows(tokens, cached, 0 if adapted else None, adapted)], lora)


def check(
    shape: ModelShape, context: int, own: int, new: int, lora: Lora, adapted: int | None = None, num: int = 1
) -> list[Step]:
    """The steps of ``num`` checks of one cached context, by as many adapters: the first gives the first token.

    Args:
        shape: The model.
        context: Cached tokens, which all checks share; 0 and ``own`` the whole prompt for one that caches nothing.
        own: Tokens of each check's own.
        new: Tokens decoded.
        lora: The adapters.
        adapted: How many of the own tokens are adapted; None: all.
        num: How many checks.
    """
    first = step(shape, [Rows(own, context, index, adapted) for index in range(num)], lora, context)
    seen = range(context + own + 1, context + own + new)
    return [first, *(decode(shape, [length] * num, lora, range(num), context) for length in seen)]


def generate(
    shape: ModelShape,
    num: int,
    prompt: int,
    new: int,
    lora: Lora | None = None,
    adapters: Sequence[Hashable] = (),
    adapted: int = 0,
) -> list[Step]:
    """The steps of ``num`` requests that nothing is cached of: all prompts in one, then a row of each in every step.

    Args:
        shape: The model.
        num: Requests.
        prompt: Tokens of each one's prompt.
        new: Tokens decoded.
        lora: See :func:`step`.
        adapters: Each request's; empty: none has one.
        adapted: How many of a prompt's tokens are adapted.
    """
    chosen = list(adapters) or [None] * num
    first = step(shape, [Rows(prompt, 0, adapter, adapted) for adapter in chosen], lora)
    return [first, *(decode(shape, [length] * num, lora, chosen) for length in range(prompt + 1, prompt + new))]


def seconds(steps: Sequence[Step], machine: Machine) -> float:
    """The time that the steps need one after the other, at least."""
    return sum(each.seconds(machine) for each in steps)
