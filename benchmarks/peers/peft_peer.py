"""transformers + PEFT, the reference."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache


def load_base(folder: Path, dtype: torch.dtype) -> torch.nn.Module:
    """The base model as transformers loads it."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


def make_adapter(
    folder: Path, out: Path, rank: int, invocation: list[int] | None, seed: int = 0, std: float = 0.01
) -> Path:
    """A PEFT adapter on q, k, v with random weights; ``std`` is that of B, and with 0 the adapter does nothing.

    PEFT names the weights of a base model that has none, so that the size of the real one does not matter.
    """
    config = LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=["q_proj", "k_proj", "v_proj"],
        alora_invocation_tokens=invocation,
        task_type="CAUSAL_LM",
        base_model_name_or_path=str(folder),
    )
    with torch.device("meta"):
        model = get_peft_model(AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder)), config)
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, empty in get_peft_model_state_dict(model).items():
        random = torch.randn(empty.shape, generator=generator)
        weights[name] = random * (std if "lora_B" in name else empty.shape[1] ** -0.5)
    out.mkdir(parents=True)
    save_file(weights, out / "adapter_model.safetensors")
    config.inference_mode = True
    config.save_pretrained(out)
    return out


def load_adapter(folder: Path, adapter: Path, dtype: torch.dtype) -> PeftModel:
    """Base model and adapter as PEFT loads them."""
    return PeftModel.from_pretrained(load_base(folder, dtype), adapter).eval()


@torch.inference_mode()
def generate(
    model: torch.nn.Module, ids: list[int], new: int, cache: DynamicCache | None = None, streamer: Any = None
) -> list[int]:
    """``new`` greedy tokens by ``generate``; a cache of the context saves its prefill, a streamer sees each token."""
    mask = torch.ones(1, len(ids), dtype=torch.long)
    return _greedy(model, torch.tensor([ids]), mask, new, cache, streamer)[0]


def generate_one_by_one(model: torch.nn.Module, prompts: list[list[int]], new: int) -> list[list[int]]:
    """``new`` greedy tokens for each prompt, one prompt after the other."""
    return [generate(model, ids, new) for ids in prompts]


@torch.inference_mode()
def generate_padded(model: torch.nn.Module, prompts: list[list[int]], new: int) -> list[list[int]]:
    """``new`` greedy tokens for each prompt, all in one batch, padded on the left and masked there."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return _greedy(model, ids, mask, new)


def _greedy(
    model: torch.nn.Module,
    ids: torch.Tensor,
    mask: torch.Tensor,
    new: int,
    cache: DynamicCache | None = None,
    streamer: Any = None,
) -> list[list[int]]:
    """Exactly ``new`` tokens after each row of ``ids`` and ``mask`` int64 [prompts, tokens]."""
    device = next(model.parameters()).device
    out = model.generate(
        input_ids=ids.to(device),
        attention_mask=mask.to(device),
        streamer=streamer,
        max_new_tokens=new,
        min_new_tokens=new,
        do_sample=False,
        pad_token_id=0,
        past_key_values=cache,
    )
    return out[:, ids.shape[1] :].tolist()


@torch.inference_mode()
def context_cache(model: torch.nn.Module, context: list[int], device: torch.device | str = "cpu") -> DynamicCache:
    """The base model's KV of a context, kept by hand: what nobody does, and what an aLoRA makes possible."""
    cache = DynamicCache(config=model.config)
    with model.disable_adapter() if isinstance(model, PeftModel) else nullcontext():
        model(input_ids=torch.tensor([context], device=device), past_key_values=cache, use_cache=True)
    return cache
