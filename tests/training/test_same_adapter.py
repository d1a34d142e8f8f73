"""A whole run gives the adapter of PEFT's loop over full rows: every step's loss, and the weights at the end."""

import random
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import GraniteConfig, LlamaConfig, Qwen2Config

from alorakit.engine.tokenizer import Tokenizer
from alorakit.training import Example, ExampleList, TrainConfig, train
from alorakit.training.prepare import split
from benchmarks.peers.peft_training import PeftTrainer, initial_weights, optimizer_groups

Settings = Callable[..., TrainConfig]
MODELS: dict[str, tuple[Any, dict[str, object]]] = {
    "llama": (LlamaConfig, {}),
    "qwen2": (Qwen2Config, {}),  # biases on q, k, v
    "granite": (GraniteConfig, dict(attention_multiplier=0.2, residual_multiplier=0.6, logits_scaling=2.0)),
}
LABELS = [(14,), (15, 16, 17), (15, 18), (19, 20)]
INVOCATION = (11, 12, 13)


@pytest.fixture(scope="module")
def bases(make_base: Callable[..., Path]) -> dict[str, Path]:
    """Folder of a random model of each kind."""
    return {name: make_base(kind, **changes) for name, (kind, changes) in MODELS.items()}


def rows_of(num: int, weights: tuple[float, ...] = (1.0,)) -> list[Example]:
    """Rows of different lengths, some with the same prefix, whose label is decided by one token."""
    rng = random.Random(num)
    rows = []
    for index in range(num):
        kind = rng.randrange(len(LABELS))
        item = (*rng.choices(range(30, 250), k=rng.randrange(1, 25)), 20 + kind)
        prefix = rows[-1].prefix_ids if index % 5 == 4 else item
        rows.append(Example(prefix, INVOCATION, LABELS[kind], str(kind), weight=weights[index % len(weights)]))
    return rows


def peer_of(base: Path, rows: list[Example], config: TrainConfig) -> tuple[PeftTrainer, list[float], list[int]]:
    """PEFT's loop after the whole run, the loss of its every step, and the rows held out."""
    training, held_out = split(len(rows), config.val_fraction, config.seed)
    groups = optimizer_groups(training, config)
    eos_id = Tokenizer.from_pretrained(base).eos_token_id
    assert eos_id is not None
    start = initial_weights(base, rows, config)
    torch.manual_seed(config.seed)  # for dropout
    trainer = PeftTrainer(base, rows[0].invocation_ids, eos_id, config, len(groups), start)
    return trainer, [step.loss for step in trainer.run(rows, groups)], held_out


@pytest.mark.parametrize(
    ("model", "num", "changes"),
    [
        ("llama", 40, dict(adapter="alora", scheduler="linear", warmup_ratio=0.1)),
        ("llama", 37, dict(adapter="lora", target_modules="all-linear", scheduler="constant")),
        ("qwen2", 37, dict(adapter="alora", target_modules="all-linear", scheduler="cosine", weight_decay=0.1)),
        ("qwen2", 40, dict(adapter="lora", scheduler="linear", warmup_ratio=0.1)),
        ("granite", 37, dict(adapter="alora", scheduler="constant", max_grad_norm=0.05)),
        ("granite", 40, dict(adapter="lora", target_modules="all-linear", scheduler="linear")),
    ],
    ids=["llama-alora", "llama-lora-all", "qwen2-alora-all", "qwen2-lora", "granite-alora", "granite-lora-all"],
)
def test_every_step_has_the_loss_of_full_sequence_training(
    bases: dict[str, Path], settings: Settings, model: str, num: int, changes: dict[str, object], tmp_path: Path
) -> None:
    rows = rows_of(num)  # 40: five whole groups of 2 x 4; 37: the last has two batches and a row
    config = settings(epochs=10, val_fraction=0.0, learning_rate=5e-3, **changes)
    report = train(bases[model], rows, config, tmp_path / "a")
    trainer, losses, _ = peer_of(bases[model], rows, config)

    assert len(losses) == 50 and sum(losses[-5:]) < 0.9 * sum(losses[:5])
    assert report.steps == pytest.approx(losses, rel=0, abs=1e-4)
    ours = load_file(report.path / "adapter_model.safetensors")
    theirs = trainer.snapshot()
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=1e-3)


def test_weights_of_rows_count_alike(bases: dict[str, Path], settings: Settings, tmp_path: Path) -> None:
    rows = rows_of(21, weights=(1.0, 0.25, 3.0))
    config = settings(epochs=4, val_fraction=0.0, learning_rate=2e-3)
    report = train(bases["llama"], rows, config, tmp_path / "a")
    losses = peer_of(bases["llama"], rows, config)[1]
    assert report.steps == pytest.approx(losses, rel=0, abs=1e-4)
    assert report.steps != pytest.approx(peer_of(bases["llama"], rows_of(21), config)[1], rel=0, abs=1e-3)


@pytest.mark.parametrize("adapter", ["alora", "lora"])
def test_with_dropout_the_validation_loss_comes_out_alike(
    tiny_base: Path, toy_rows: ExampleList, settings: Settings, adapter: str, tmp_path: Path
) -> None:
    # Masks differ: the peer draws them for tokens that ours never computes.
    ours, theirs = [], []
    for seed in range(3):
        config = settings(adapter=adapter, dropout=0.05, epochs=6, seed=seed, learning_rate=2e-3)
        report = train(tiny_base, toy_rows, config, tmp_path / str(seed))
        ours.append(report.history[-1]["val_loss"])
        trainer, _, held_out = peer_of(tiny_base, toy_rows, config)
        theirs.append(trainer.validation_loss([toy_rows[row] for row in held_out]))
        assert ours[-1] < 0.8 * report.before["val_loss"]
    assert statistics.mean(ours) == pytest.approx(statistics.mean(theirs), rel=0.05)
