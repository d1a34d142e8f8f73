"""transformers + PEFT, the reference."""

from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, DynamicCache


def load_base(folder: Path, dtype: torch.dtype) -> torch.nn.Module:
    """The base model as transformers loads it."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


def make_adapter(folder: Path, out: Path, rank: int, invocation: list[int] | None, seed: int = 0) -> Path:
    """A PEFT adapter on q, k, v with small random weights; the speed does not depend on them."""
    config = LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=["q_proj", "k_proj", "v_proj"],
        alora_invocation_tokens=invocation,
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(load_base(folder, torch.float32), config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.01)
    model.save_pretrained(out)
    return out


def load_adapter(folder: Path, adapter: Path, dtype: torch.dtype) -> PeftModel:
    """Base model and adapter as PEFT loads them."""
    return PeftModel.from_pretrained(load_base(folder, dtype), adapter).eval()


@torch.inference_mode()
def generate(model: torch.nn.Module, ids: list[int], new: int, cache: DynamicCache | None = None) -> list[int]:
    """``new`` greedy tokens by ``generate``; a cache of the context saves its prefill."""
    out = model.generate(
        input_ids=torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        max_new_tokens=new,
        min_new_tokens=new,
        do_sample=False,
        pad_token_id=0,
        past_key_values=cache,
    )
    return out[0, len(ids) :].tolist()


@torch.inference_mode()
def context_cache(model: PeftModel, context: list[int]) -> DynamicCache:
    """The base model's KV of a context, kept by hand: what nobody does, and what an aLoRA makes possible."""
    cache = DynamicCache(config=model.config)
    with model.disable_adapter():
        model(input_ids=torch.tensor([context]), past_key_values=cache, use_cache=True)
    return cache
