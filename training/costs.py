"""What passes over a model cost, by its shape alone: floating-point operations, a measured rate of them, bytes."""

import itertools
import math
import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from alorakit.engine.adapters import linear_shapes
from alorakit.engine.model_config import ModelConfig
from alorakit.engine.weights import parameter_shapes
from alorakit.training.config import TrainConfig

MEASURE_SECONDS = 0.1
# One layer's products on a CPU: outputs are left out beyond this, for a large model's would take seconds.
_MOST_FLOPS = 8e9
# More weights than caches hold, so that few rows wait for memory as they do in a run.
_WEIGHT_BYTES = 128 * 1024**2
# Copies of each adapter weight, all float32: itself, its gradient, and AdamW's two moments.
_ADAPTER_COPIES = 4


@dataclass(frozen=True)
class ModelCosts:
    """One model's costs.

    Attributes:
        config: Its shape.
        element_size: Bytes of an element of the compute dtype.
    """

    config: ModelConfig
    element_size: int

    @property
    def parameters(self) -> int:
        """All of the base model's."""
        return sum(math.prod(shape) for shape in parameter_shapes(self.config).values())

    @property
    def layer_parameters(self) -> int:
        """Those of one layer's linear layers."""
        return sum(n * m for n, m in linear_shapes(self.config).values())

    @property
    def kv_bytes(self) -> int:
        """Keys and values of one token, all layers."""
        return 2 * self.config.num_layers * self.config.kv_size * self.element_size

    def forward(self, rows: float, before: float = 0, read: float = 0) -> float:
        """Operations of a forward pass of one sequence.

        Two for each linear parameter and row, and in each layer ``4 * heads * head_dim`` for each pair of a row and a
        token that it sees: those before, and of its own on average half.

        Args:
            rows: Rows that enter the model.
            before: Tokens before them whose keys are there.
            read: Rows whose next token's distribution is computed.
        """
        cfg = self.config
        attention = 4 * cfg.num_layers * cfg.q_size * rows * (before + rows / 2)
        linear = 2 * cfg.num_layers * self.layer_parameters * rows
        return linear + attention + 2 * read * cfg.hidden_size * cfg.vocab_size

    def adapter_parameters(self, config: TrainConfig) -> int:
        """Trainable parameters: rank times inputs and outputs of each target."""
        shapes = linear_shapes(self.config)
        return self.config.num_layers * config.effective_rank * sum(sum(shapes[name]) for name in config.targets)

    def adapter_bytes(self, config: TrainConfig) -> int:
        """The adapter, its gradients and the optimizer's state."""
        return 4 * _ADAPTER_COPIES * self.adapter_parameters(config)

    def activation_bytes(self, rows: int, context: int, read: int, checkpointing: bool) -> int:
        """What a training batch keeps for its backward pass, roughly.

        A layer keeps, for each row, five tensors of the hidden size, three each of the queries' and the MLP's, its
        keys and values, and the float32 input of the low-rank path; and its sequences' keys and values, joined. With
        checkpointing one layer has that, the others their input alone.

        Args:
            rows: Rows of the batch.
            context: Tokens before them.
            read: Rows whose logits (float32, with their gradient) are computed.
            checkpointing: Whether activations are computed again.
        """
        cfg = self.config
        row = self.element_size * (5 * cfg.hidden_size + 3 * (cfg.q_size + cfg.intermediate_size) + 2 * cfg.kv_size)
        layer = rows * (row + 4 * cfg.hidden_size) + (rows + context) * self.kv_bytes // cfg.num_layers
        kept = cfg.num_layers * (rows * cfg.hidden_size * self.element_size if checkpointing else layer)
        return kept + (layer if checkpointing else 0) + 8 * read * cfg.vocab_size

    def rate(self, rows: int, device: torch.device, dtype: torch.dtype) -> float:
        """Operations in a second of the model's own matrix products, measured in about 0.1 s.

        Args:
            rows: Rows that enter them.
            device: Where.
            dtype: Compute dtype.
        """
        cfg = self.config
        shapes = [
            (cfg.q_size + 2 * cfg.kv_size, cfg.hidden_size),
            (cfg.hidden_size, cfg.q_size),
            (2 * cfg.intermediate_size, cfg.hidden_size),
            (cfg.hidden_size, cfg.intermediate_size),
        ]
        share = min(1.0, _MOST_FLOPS / (2 * rows * self.layer_parameters)) if device.type == "cpu" else 1.0
        shapes = [(max(math.ceil(n * share), min(n, 64)), m) for n, m in shapes]
        size = sum(n * m for n, m in shapes)
        copies = min(cfg.num_layers, math.ceil(_WEIGHT_BYTES / (size * self.element_size)))
        # Ordinary numbers: with zeros or what memory holds, some processors are faster or slower.
        layers = [[torch.full(shape, 0.01, dtype=dtype, device=device) for shape in shapes] for _ in range(copies)]
        inputs = [torch.full((rows, m), 0.01, dtype=dtype, device=device) for _, m in shapes]
        seconds: list[float] = []
        for layer in itertools.cycle(layers):
            _wait(device)
            began = time.perf_counter()
            for x, weight in zip(inputs, layer, strict=True):
                F.linear(x, weight)
            _wait(device)
            seconds.append(time.perf_counter() - began)
            if len(seconds) > 2 and sum(seconds) > MEASURE_SECONDS:
                break
        timed = sorted(seconds[1:])  # the first one prepares
        return 2 * rows * size / timed[len(timed) // 2]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
