"""What a run on a GPU measures, at which sizes."""

from dataclasses import dataclass, replace

import torch

from alorakit import EngineConfig
from alorakit.engine.model_config import ModelConfig
from benchmarks.gpu_model import AdapterSet
from benchmarks.roofline import ALL_SEVEN, GRANITE_8B, QKV, ModelShape

QKV_SET = AdapterSet("qkv", 8, QKV)
SEVEN_SET = AdapterSet("seven", 8, ALL_SEVEN)
# Plain LoRA, for what a check costs without a shared cache.
LORA_SET = AdapterSet("lora", 1, QKV, invocation=None)


@dataclass(frozen=True)
class Plan:
    """Sizes of a run.

    Attributes:
        shape: The model.
        device: Where it runs.
        context: Tokens before a decoded one.
        batches: Rows decoded at once.
        long: Tokens of a check's context.
        own: Tokens of a check's own, the invocation among them.
        new: Tokens a check decodes.
        prefills: Lengths of prompts.
        block_size: Tokens of a KV block.
        rounds: Turns of each contestant.
        repeats: Model passes, or steps, of a turn.
        lora_rounds: How often the long context is read by a plain LoRA.
        profile: Whether to list the kernels of a step.
    """

    shape: ModelShape
    device: torch.device
    dtype: torch.dtype
    context: int = 1024
    batches: tuple[int, ...] = (1, 8, 64)
    long: int = 32_768
    own: int = 23
    new: int = 8
    prefills: tuple[int, ...] = (2048, 8192)
    block_size: int = 64
    rounds: int = 7
    repeats: int = 10
    lora_rounds: int = 2
    profile: bool = True

    @property
    def adapter_sets(self) -> tuple[AdapterSet, ...]:
        """All adapters."""
        return (QKV_SET, SEVEN_SET, LORA_SET)

    def settings(self) -> EngineConfig:
        """The engine's: room for the batch's contexts, and for the long one three times over."""
        slack = self.new + self.own + 2 * self.block_size
        tokens = max(self.batches) * (self.context + slack) + 3 * (self.long + slack) + sum(self.prefills)
        return EngineConfig(
            dtype="float32" if self.dtype == torch.float32 else "bfloat16",
            device=str(self.device),
            block_size=self.block_size,
            cache_blocks=-(-tokens // self.block_size),
            max_num_seqs=max(self.batches),
            max_num_batched_tokens=max(self.prefills),
            max_model_len=max(self.long, self.context, *self.prefills) + slack + self.rounds * self.repeats,
            max_adapters=sum(each.num for each in self.adapter_sets),
            max_draft_tokens=0,
            pack_weights=False,
        )


def full(device: torch.device) -> Plan:
    """Every size, every turn."""
    return Plan(GRANITE_8B, device, torch.bfloat16)


def quick(device: torch.device) -> Plan:
    """The same with fewer turns, and without the middle sizes."""
    return replace(full(device), batches=(1, 64), prefills=(2048,), rounds=3, repeats=5, lora_rounds=1, profile=False)


def warm(plan: Plan) -> Plan:
    """One layer and one turn: everything is compiled, for the layers are alike."""
    config = replace(plan.shape.config, num_layers=1, sliding_windows=plan.shape.config.sliding_windows[:1])
    shape = replace(plan.shape, config=config)
    return replace(plan, shape=shape, rounds=1, repeats=1, lora_rounds=1, profile=False)


def dry() -> Plan:
    """A tiny model on the CPU: shows that a run runs, and measures nothing of interest."""
    raw = {
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 256,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "tie_word_embeddings": True,
        "eos_token_id": 0,
    }
    return Plan(
        shape=ModelShape(ModelConfig.from_hf(raw), 4),
        device=torch.device("cpu"),
        dtype=torch.float32,
        context=24,
        batches=(1, 8),
        long=96,
        own=8,
        new=3,
        prefills=(32, 48),
        block_size=16,
        rounds=1,
        repeats=2,
        lora_rounds=1,
    )
