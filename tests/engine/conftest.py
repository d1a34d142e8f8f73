"""Tiny random models of every family, and adapters that PEFT itself made and saved."""

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from alorakit.engine.engine import Engine
from alorakit.engine.tokenizer import Tokenizer

ALL_SEVEN = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
QKV = ["q_proj", "k_proj", "v_proj"]
INVOCATION = [301, 17, 302]
TOKENIZERS = ("byte-level", "byte-fallback")


# Of each family what its class is named, and what differs from three narrow layers. "llama3-rope" has the rest of
# Llama 3.2, too. Windows and original lengths are short enough that every prompt crosses them.
WINDOW = 24
YARN = dict(rope_type="yarn", rope_theta=1e4, factor=4.0, original_max_position_embeddings=32)
_KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", dict(tie_word_embeddings=True)),
    "llama3-rope": ("Llama", dict(
        tie_word_embeddings=True, head_dim=24, rope_parameters=dict(
            rope_type="llama3", rope_theta=1e4, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
            original_max_position_embeddings=128,
        ),
    )),
    "linear-rope": ("Llama", dict(
        attention_bias=True, mlp_bias=True, rope_parameters=dict(rope_type="linear", rope_theta=1e4, factor=4.0)
    )),
    "llama-yarn": ("Llama", dict(rope_parameters=YARN)),
    "qwen2": ("Qwen2", {}),
    "qwen2-window": ("Qwen2", dict(use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1)),
    "qwen3": ("Qwen3", dict(head_dim=16)),
    "qwen3-yarn": ("Qwen3", dict(
        head_dim=32, attention_bias=True, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=2,
        rope_parameters=YARN | dict(mscale=1.5, mscale_all_dim=0.5, beta_fast=8, beta_slow=2, truncate=False),
    )),
    "mistral": ("Mistral", dict(head_dim=24, sliding_window=WINDOW)),
    "mistral-layers": ("Mistral", dict(
        sliding_window=WINDOW, layer_types=["sliding_attention", "full_attention", "sliding_attention"]
    )),
    "granite": ("Granite", dict(
        tie_word_embeddings=True, embedding_multiplier=3.0, attention_multiplier=0.2, residual_multiplier=0.6,
        logits_scaling=2.0,
    )),
}  # fmt: skip
FAMILIES = tuple(_KINDS)
WINDOWED = tuple(family for family, (_, extra) in _KINDS.items() if "sliding_window" in extra)


def hf_config(family: str):
    """A Hugging Face configuration of three narrow layers; large weights, so that greedy ids differ clearly."""
    import transformers

    name, extra = _KINDS[family]
    shape = dict(
        vocab_size=512, hidden_size=64, intermediate_size=112, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, initializer_range=0.15, eos_token_id=2, bos_token_id=1,
        tie_word_embeddings=False,
    )  # fmt: skip
    return getattr(transformers, f"{name}Config")(**copy.deepcopy(shape | extra))


def hf_json(family: str, **changes: object) -> dict[str, Any]:
    """Contents of a family's ``config.json``, with some keys changed; ``...`` removes one."""
    raw = hf_config(family).to_dict() | {"architectures": [f"{_KINDS[family][0]}ForCausalLM"]} | changes
    return {key: value for key, value in raw.items() if value is not ...}


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory, tiny_tokenizer_dir) -> dict[str, Path]:
    """Folder of a random model for each family."""
    from transformers import AutoModelForCausalLM

    folders = {}
    for seed, family in enumerate(FAMILIES):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(hf_config(family))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("bias") or "norm" in name:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
        folder = tmp_path_factory.mktemp(family)
        model.save_pretrained(folder, max_shard_size="150KB")
        for file in tiny_tokenizer_dir.iterdir():
            shutil.copy(file, folder)
        folders[family] = folder
    return folders


@pytest.fixture(scope="session")
def make_adapter(tmp_path_factory):
    """Make a PEFT adapter with random non-zero weights for a model folder, and save it with PEFT."""
    from peft import LoraConfig, get_peft_model

    def make(base: Path, seed: int = 0, rank: int = 8, targets=QKV, invocation=INVOCATION, std=0.15, **config) -> Path:
        model = reference(base)
        config.setdefault("lora_alpha", 2 * rank)
        config.setdefault("task_type", "CAUSAL_LM")
        peft = get_peft_model(
            model, LoraConfig(r=rank, target_modules=targets, alora_invocation_tokens=invocation, **config)
        )
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in peft.named_parameters():
                if "lora_" in name:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * std / rank**0.5)
        folder = tmp_path_factory.mktemp("adapter")
        peft.save_pretrained(folder)
        return folder

    return make


def reference(base: Path, adapter: Path | None = None):
    """The transformers model (with PEFT's adapter), float32."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    return model if adapter is None else PeftModel.from_pretrained(model, adapter).eval()


@torch.no_grad()
def reference_generate(model, ids: list[int], num: int = 16) -> tuple[list[int], torch.Tensor]:
    """Greedy ids of ``num`` new tokens and their logits [num, vocab], by ``generate``."""
    out = model.generate(
        input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), max_new_tokens=num,
        min_new_tokens=num, do_sample=False, pad_token_id=0, eos_token_id=None, return_dict_in_generate=True,
        output_logits=True,
    )  # fmt: skip
    return out.sequences[0, len(ids) :].tolist(), torch.stack([step[0].float() for step in out.logits])


@pytest.fixture
def tiny_engine(tiny_models):
    """Engine over a tiny model, float32; keywords are EngineConfig's."""
    engines = []

    def make(family: str = "llama", **config) -> Engine:
        config.setdefault("dtype", "float32")
        config.setdefault("device", "cpu")
        config.setdefault("block_size", 16)
        engine = Engine.from_pretrained(tiny_models[family], **config)
        engines.append(engine)
        return engine

    yield make
    for engine in engines:
        engine.check_integrity()
        engine.close()


@pytest.fixture(scope="session")
def tokenizers(tiny_tokenizer_dir, sentencepiece_dir) -> dict[str, Tokenizer]:
    """A tokenizer of each kind."""
    folders = (tiny_tokenizer_dir, sentencepiece_dir)
    return {kind: Tokenizer.from_pretrained(folder) for kind, folder in zip(TOKENIZERS, folders, strict=True)}


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request, tokenizers) -> Tokenizer:
    """One tokenizer after the other."""
    return tokenizers[request.param]
