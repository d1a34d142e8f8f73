"""The learning rate's way."""

import math

from alorakit.training.config import TrainConfig


def learning_rate(config: TrainConfig, step: int, num_steps: int) -> float:
    """Learning rate of optimizer step ``step`` (from 0) of ``num_steps``.

    It rises linearly over the first ``warmup_ratio`` of the steps, to the full rate at the first step after them, and
    goes on as ``scheduler`` says over those that are left.
    """
    warmup = math.ceil(config.warmup_ratio * num_steps)
    if step < warmup:
        return config.learning_rate * (step + 1) / (warmup + 1)
    done = (step - warmup) / max(num_steps - warmup, 1)
    factor = {"constant": 1.0, "linear": 1.0 - done, "cosine": 0.5 * (1.0 + math.cos(math.pi * done))}
    return config.learning_rate * factor[config.scheduler]
