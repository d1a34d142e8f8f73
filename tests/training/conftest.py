import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedConfig

from alorakit.engine.tokenizer import Tokenizer
from alorakit.training import Example, ExampleList, load_examples
from alorakit.training.adapter_folder import CONFIG_NAME, WEIGHTS_NAME, adapter_config, outfile_folder, write_adapter
from alorakit.training.config import TrainConfig
from alorakit.training.loss import SuffixModel

INVOCATION = (11, 12, 13)


@pytest.fixture(scope="session")
def make_base(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_dir: Path) -> Callable[..., Path]:
    """Make a random two-layer model with the tiny tokenizer; larger weights than usual, so that answers differ."""

    def make(kind: type[PreTrainedConfig], **changes: object) -> Path:
        folder = tmp_path_factory.mktemp("base") / f"tiny-{kind.model_type}"
        torch.manual_seed(0)
        config = kind(
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=Tokenizer.from_pretrained(tiny_tokenizer_dir).vocab_size,
            max_position_embeddings=512,
            initializer_range=0.2,
            **changes,
        )
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        for file in tiny_tokenizer_dir.iterdir():
            shutil.copy(file, folder)
        return folder

    return make


@pytest.fixture(scope="session")
def tiny_base(make_base: Callable[..., Path]) -> Path:
    """A random two-layer Llama."""
    return make_base(LlamaConfig)


@pytest.fixture(scope="session")
def examples() -> list[Example]:
    """Rows of random ids and different lengths; the first two share their opening, the last two their prefix."""
    rng = random.Random(1)
    opening = [rng.randrange(20, 250) for _ in range(5)]
    prefixes = [opening + [rng.randrange(20, 250) for _ in range(n)] for n in (9, 1, 30)]
    prefixes += [[rng.randrange(20, 250) for _ in range(17)]] * 2
    labels = [(14,), (15, 16, 17), (14,), (15, 18), (15, 16, 17)]
    return [
        Example(tuple(p), INVOCATION, label, "".join(map(chr, label)))
        for p, label in zip(prefixes, labels, strict=True)
    ]


@pytest.fixture(scope="session")
def toy_rows(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> ExampleList:
    """A task that a tiny model learns: the label is decided by one word of the item."""
    rng = random.Random(0)
    path = tmp_path_factory.mktemp("toy") / "toy.jsonl"
    rows = []
    for _ in range(40):
        word, label = rng.choice([("pump", "yes"), ("and", "one")])
        rows.append({"item": " ".join([*rng.sample(["in", "or", "end"], 2), word]), "label": label})
    # The first two differ: fewer labels than two cannot be trained on.
    rows.insert(1, rows.pop(next(i for i, row in enumerate(rows) if row["label"] != rows[0]["label"])))
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return load_examples(path, Tokenizer.from_pretrained(tiny_base), invocation="<|start_header_id|>check")


@pytest.fixture
def settings() -> Callable[..., TrainConfig]:
    """Settings for tiny runs; keywords replace them."""

    def make(**changes: object) -> TrainConfig:
        small = {
            "rank": 4,
            "alpha": 8,
            "dropout": 0.0,
            "epochs": 2,
            "learning_rate": 1e-2,
            "device": "cpu",
            "dtype": "float32",
        }
        return TrainConfig(**{**small, **changes})  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="session")
def write_peft() -> Callable[..., Path]:
    """Write a model's adapter as PEFT reads it, without a run."""

    def write(target: Path, model: SuffixModel, config: TrainConfig) -> Path:
        with outfile_folder(target) as folder:
            peft = adapter_config(config, "", INVOCATION)
            weights = save(model.lora.snapshot(), metadata={"format": "pt"})
            write_adapter(folder, {CONFIG_NAME: json.dumps(peft).encode(), WEIGHTS_NAME: weights})
        return target

    return write
