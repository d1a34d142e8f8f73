"""Model and adapter folders of random weights, by safetensors alone: for machines without transformers or PEFT."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from alorakit.engine.adapters import linear_shapes, tensor_name
from alorakit.engine.model_config import ModelConfig
from alorakit.engine.weights import parameter_shapes

TINY = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FAMILIES = {
    "llama": {},
    "qwen3": {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "head_dim": 24,
        "attention_bias": True,
        "tie_word_embeddings": False,
    },
    "mistral": {
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "sliding_window": 24,
        "tie_word_embeddings": False,
    },
    "granite": {
        "architectures": ["GraniteForCausalLM"],
        "model_type": "granite",
        "embedding_multiplier": 3.0,
        "attention_multiplier": 0.2,
        "residual_multiplier": 0.6,
        "logits_scaling": 2.0,
    },
}


def make_model(folder: Path, tokenizer: Path, family: str = "llama", seed: int = 0, **changes: object) -> Path:
    """A model folder; large weights, so that greedy ids differ clearly."""
    shutil.copytree(tokenizer, folder)
    raw = TINY | FAMILIES[family] | changes
    (folder / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in parameter_shapes(ModelConfig.from_folder(folder)).items():
        noise = torch.randn(shape, generator=generator)
        tensors[name] = 1 + noise * 0.1 if "norm" in name else noise * 0.15
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def make_adapter(
    folder: Path, model: Path, targets: list[str], rank: int, invocation: list[int] | None, seed: int = 0
) -> Path:
    """An adapter folder as PEFT writes it; ``invocation`` None makes a plain LoRA."""
    folder.mkdir()
    config = ModelConfig.from_folder(model)
    raw = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(model),
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": targets,
        "alora_invocation_tokens": invocation,
        "bias": "none",
    }
    (folder / "adapter_config.json").write_text(json.dumps(raw), encoding="utf-8")
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(config.num_layers):
        for target in targets:
            ins, outs = linear_shapes(config)[target]
            for side, shape in (("A", (rank, ins)), ("B", (outs, rank))):
                noise = torch.randn(shape, generator=generator) * 0.15
                tensors[tensor_name(layer, target, side)] = noise / rank**0.5
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder
