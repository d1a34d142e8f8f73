"""Fixtures: a tiny real engine with two adapters, and sessions on it."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from alorakit import ChatContext, Engine, EngineBackend, MelleaSession
from alorakit.bindings.session import ModelOption
from alorakit.engine.manifest import Manifest
from tests.engine.folders import make_adapter, make_model

SHORT = {ModelOption.MAX_NEW_TOKENS: 6}


@pytest.fixture(scope="module")
def served_folder(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_dir: Path) -> Path:
    """A tiny model, and beside it two adapters: one with labels, and one that answers by yes and no."""
    made = tmp_path_factory.mktemp("serving")
    model = make_model(made / "model", tiny_tokenizer_dir, max_position_embeddings=2048)
    for seed, (name, manifest) in enumerate(
        {
            "parts": Manifest(labels=("rod", "pump", "none"), invocation="check", fail_labels=("none",)),
            "checker": Manifest(labels=("yes", "no"), invocation="check", requirements=True),
        }.items()
    ):
        adapter = make_adapter(made / name, model, ["q_proj", "v_proj"], 4, [301, 17, 302], seed)
        (adapter / "alorakit.json").write_text(manifest.to_json())
    return made


@pytest.fixture(scope="module")
def random_base(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_dir: Path) -> Path:
    """A random Llama with the tiny tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("model")
    config = LlamaConfig(
        vocab_size=512, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=2048, eos_token_id=2, initializer_range=0.1,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    for file in tiny_tokenizer_dir.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.fixture
def engine(served_folder: Path) -> Iterator[Engine]:
    with Engine.from_pretrained(served_folder / "model", dtype="float32", device="cpu", block_size=16) as made:
        for name in ("parts", "checker"):
            made.add_adapter(name, served_folder / name)
        yield made
        made.check_integrity()


@pytest.fixture
def session(engine: Engine) -> Iterator[Callable[..., MelleaSession]]:
    backend = EngineBackend(engine=engine, model_options=SHORT)
    yield lambda ctx=None: MelleaSession(backend, ctx or ChatContext())
    backend.close()


def stepping() -> int:
    return sum(thread.name == "alorakit-step" for thread in threading.enumerate())
