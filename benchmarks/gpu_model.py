"""A model of any shape with random weights, its adapters likewise: made on the device, from no file."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from alorakit import Engine, EngineConfig
from alorakit.engine.adapters import Adapter, AdapterInfo, AdapterWeights, LoraPair, linear_shapes
from alorakit.engine.model_config import ModelConfig
from alorakit.engine.tokenizer import Tokenizer
from alorakit.engine.tokenizer_files import TokenizerFiles
from alorakit.engine.weights import random_decoder

INVOCATION = [1, 2, 3]
# Ids from here on are ordinary ones: neither end of sequence nor the invocation's.
FIRST_WORD = 4


@dataclass(frozen=True)
class AdapterSet:
    """Adapters that are alike.

    Attributes:
        prefix: Their names are this and a number.
        num: How many.
        targets: Linear layers they adapt.
        rank: Of each.
        invocation: None for plain LoRAs.
    """

    prefix: str
    num: int
    targets: Sequence[str]
    rank: int = 32
    invocation: Sequence[int] | None = tuple(INVOCATION)

    @property
    def names(self) -> list[str]:
        """What they are registered as."""
        return [f"{self.prefix}-{index}" for index in range(self.num)]


def make_engine(config: ModelConfig, settings: EngineConfig, device: torch.device, dtype: torch.dtype) -> Engine:
    """An engine over a random model; ``settings`` must say ``max_model_len``."""
    assert settings.max_model_len is not None
    decoder = random_decoder(config, dtype, device, settings.max_model_len)
    return Engine(settings, decoder, word_tokenizer(config.vocab_size), "random", Path("random"))


def word_tokenizer(vocab_size: int) -> Tokenizer:
    """A word for each id, separated by blanks; two are labels."""
    return Tokenizer(TokenizerFiles(Path("random"), word_backend(vocab_size), {"eos_token": "<eos>"}, None, ""))


def word_backend(vocab_size: int) -> Backend:
    """See :func:`word_tokenizer`."""
    named = ["<eos>", "yes", "no"]
    words = {word: index for index, word in enumerate([*named, *(f"w{i}" for i in range(len(named), vocab_size))])}
    backend = Backend(models.WordLevel(words, unk_token="<eos>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens(["<eos>"])
    return backend


def write_random_model(folder: Path, config: dict[str, Any], device: torch.device, dtype: torch.dtype) -> Path:
    """A folder with a random model, as others load it too: weights, ``config.json``, a tokenizer of words.

    Args:
        folder: Where it goes; made.
        config: As ``config.json`` has it, ``architectures`` included.
        device: Where the weights are drawn.
        dtype: Of the weights.
    """
    import transformers

    kind = config["architectures"][0]
    rest = {name: value for name, value in config.items() if name != "architectures"}
    torch.manual_seed(0)
    with torch.device(device):
        made = getattr(transformers, kind.replace("ForCausalLM", "Config"))(**rest)
        model = getattr(transformers, kind)._from_config(made, dtype=dtype)
    model.save_pretrained(folder)
    word_backend(config["vocab_size"]).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<eos>"}), encoding="utf-8")
    return folder


def add_adapters(engine: Engine, adapters: AdapterSet) -> None:
    """Register random adapters. They share their tensors, which lie on the device; each gets a slot of its own there.

    A shared origin saves time and memory here and changes nothing later: what a step reads are the slots.
    """
    config, model = engine.model_config, engine._runner.model
    generator = torch.Generator(model.device).manual_seed(0)

    def random_weights(rows: int, columns: int) -> torch.Tensor:
        weights = torch.empty(rows, columns, dtype=model.dtype, device=model.device)
        return weights.normal_(0.0, 0.01, generator=generator)

    pairs = {
        (layer, target): LoraPair(
            random_weights(adapters.rank, inputs), random_weights(outputs, adapters.rank), scaling=1.0
        )
        for target, (inputs, outputs) in linear_shapes(config).items()
        if target in adapters.targets
        for layer in range(config.num_layers)
    }
    weights = AdapterWeights(pairs)
    invocation = None if adapters.invocation is None else tuple(adapters.invocation)
    for name in adapters.names:
        info = AdapterInfo(
            name=name,
            kind="lora" if invocation is None else "alora",
            rank=adapters.rank,
            targets=tuple(adapters.targets),
            invocation_tokens=invocation,
            digest=f"{name} of {engine.model_name}",
            path=Path(name),
            base_model="",
            manifest=None,
        )
        engine._registry.register(name, Adapter(info, weights))


def random_ids(num: int, vocab_size: int, *seed: object) -> list[int]:
    """``num`` ordinary token ids that no other seed begins with."""
    rng = random.Random(repr(seed))
    return [rng.randrange(FIRST_WORD, vocab_size) for _ in range(num)]
