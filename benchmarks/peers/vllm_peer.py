"""vLLM: continuous batching and a prefix cache of its own. It refuses aLoRAs, so it checks with a LoRA or with none."""

import importlib.util
from pathlib import Path
from typing import Any

import torch


class Vllm:
    """A loaded model with a LoRA."""

    def __init__(self, folder: Path, adapter: Path, rank: int, max_tokens: int, dtype: torch.dtype) -> None:
        """Load a model folder.

        Args:
            folder: The model.
            adapter: PEFT's folder of a LoRA; read with the first answer that wants it.
            rank: Its rank.
            max_tokens: Longest sequence.
            dtype: Compute dtype.
        """
        from vllm import LLM
        from vllm.lora.request import LoRARequest

        self._llm: Any = LLM(
            model=str(folder),
            dtype=str(dtype).removeprefix("torch."),
            max_model_len=max_tokens,
            enable_lora=True,
            max_lora_rank=rank,
            enable_prefix_caching=True,
            gpu_memory_utilization=0.25,  # the other contestants are on the same GPU
            skip_tokenizer_init=True,
        )
        self._lora: Any = LoRARequest("lora", 1, str(adapter))

    def generate(self, ids: list[int], new: int, adapted: bool) -> list[int]:
        """``new`` greedy tokens after ``ids``; what its prefix cache holds of them is not computed again."""
        from vllm import SamplingParams

        params = SamplingParams(temperature=0.0, max_tokens=new, min_tokens=new, ignore_eos=True, detokenize=False)
        lora = self._lora if adapted else None
        [request] = self._llm.generate([{"prompt_token_ids": ids}], params, lora_request=lora, use_tqdm=False)
        return list(request.outputs[0].token_ids)


def available() -> bool:
    """Whether the package is installed."""
    return importlib.util.find_spec("vllm") is not None
