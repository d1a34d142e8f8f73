"""Rows over kept prefixes give what transformers gives on whole sequences, whatever the family."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GraniteConfig, MistralConfig, Qwen2Config, Qwen3Config

from alorakit.engine.pretrained import resolve_model
from alorakit.training.config import TrainConfig
from alorakit.training.data import Example
from alorakit.training.prepare import build_model

SHAPE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
}
FAMILIES = {
    "qwen2-sliding": Qwen2Config(
        **SHAPE, vocab_size=500, use_sliding_window=True, sliding_window=12, max_window_layers=1
    ),
    "granite": GraniteConfig(
        **SHAPE,
        vocab_size=500,
        attention_multiplier=0.2,
        residual_multiplier=0.5,
        embedding_multiplier=3.0,
        logits_scaling=2.0,
    ),
    "mistral": MistralConfig(**SHAPE, vocab_size=500, head_dim=24, sliding_window=12),
    "qwen3-yarn": Qwen3Config(
        **SHAPE,
        vocab_size=500,
        head_dim=32,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 1e4,
            "factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_log_probabilities_are_transformers(
    family: str, examples: list[Example], tiny_tokenizer_dir: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    reference = AutoModelForCausalLM.from_config(FAMILIES[family], attn_implementation="eager").eval()
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            if "norm" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    reference.save_pretrained(tmp_path)
    for file in tiny_tokenizer_dir.iterdir():
        shutil.copy(file, tmp_path)
    config = TrainConfig(device="cpu", dtype="float32")
    model = build_model(resolve_model(tmp_path), examples, config)
    model.prefixes.fill(e.prefix_ids for e in examples)
    options = [(20, 21, 22, 23), (24, 25)]

    with torch.no_grad():
        values = model.log_probabilities(examples, [options] * len(examples)).split([4, 2] * len(examples))
        found = iter(values)
        for example in examples:
            asked = [*example.prefix_ids, *example.invocation_ids]
            for option in options:
                logits = reference(input_ids=torch.tensor([[*asked, *option]])).logits[0, len(asked) - 1 : -1]
                wanted = logits.float().log_softmax(-1).gather(1, torch.tensor(option)[:, None])[:, 0]
                assert torch.allclose(next(found), wanted, atol=1e-4)
