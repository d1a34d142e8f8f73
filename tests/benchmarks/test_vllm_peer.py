"""What vLLM is asked, with a stand-in for it: the package needs a GPU."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from benchmarks.peers import vllm_peer


class StandIn:
    """Keeps what it is called with; answers with as many tokens as it is asked for."""

    def __init__(self, **settings):
        self.settings, self.calls = settings, []

    def generate(self, prompts, params, *, lora_request, use_tqdm):
        self.calls.append((prompts, lora_request, use_tqdm))
        assert params["temperature"] == 0.0 and params["ignore_eos"]
        assert params["min_tokens"] == params["max_tokens"]
        return [SimpleNamespace(outputs=[SimpleNamespace(token_ids=tuple(range(params["max_tokens"])))])]


@pytest.fixture
def vllm(monkeypatch):
    package, lora = ModuleType("vllm"), ModuleType("vllm.lora")
    request = ModuleType("vllm.lora.request")
    package.LLM, package.SamplingParams = StandIn, dict
    request.LoRARequest = lambda name, number, path: (name, number, path)
    for name, module in {"vllm": package, "vllm.lora": lora, "vllm.lora.request": request}.items():
        monkeypatch.setitem(sys.modules, name, module)
    return vllm_peer.Vllm(Path("model"), Path("adapter"), 32, 4096, torch.bfloat16)


def test_the_model_is_loaded_with_a_prefix_cache_and_room_for_the_adapter(vllm):
    settings = vllm._llm.settings
    assert (settings["model"], settings["dtype"], settings["max_model_len"]) == ("model", "bfloat16", 4096)
    assert settings["enable_lora"] and settings["max_lora_rank"] == 32 and settings["enable_prefix_caching"]


def test_ids_go_in_and_come_out(vllm):
    assert vllm.generate([5, 6, 7], 3, adapted=False) == [0, 1, 2]
    assert vllm.generate([5, 6], 2, adapted=True) == [0, 1]
    assert vllm._llm.calls == [
        ([{"prompt_token_ids": [5, 6, 7]}], None, False),
        ([{"prompt_token_ids": [5, 6]}], ("lora", 1, "adapter"), False),
    ]
