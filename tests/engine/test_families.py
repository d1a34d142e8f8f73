"""What families differ in: sliding windows over prompts, decoding, chunks and kept keys; what missing keys mean."""

import pytest

from alorakit.engine.errors import UnsupportedModelError
from alorakit.engine.model_config import ModelConfig

from .conftest import ALL_SEVEN, FAMILIES, WINDOW, WINDOWED, hf_config, hf_json, reference, reference_generate
from .test_parity import GREEDY, assert_same, prompt_with

BY_CLASS = ["llama", "qwen2", "qwen3", "mistral", "granite"]


@pytest.mark.parametrize("family", WINDOWED)
def test_windows_crossed_by_prompts_by_decoding_and_by_reuse(family, tiny_models, tiny_engine, make_adapter):
    base = tiny_models[family]
    path = make_adapter(base, seed=1, targets=ALL_SEVEN)
    # Decoding crosses the window, starts at its edge, starts well beyond it.
    prompts = [prompt_with(length, 1, length - 3) for length in (12, WINDOW, 70)] * 2
    names = [None] * 3 + ["a"] * 3
    peers = {None: reference(base), "a": reference(base, path)}
    wanted = [reference_generate(peers[name], prompt) for name, prompt in zip(names, prompts, strict=True)]
    for config in ({}, {"max_num_batched_tokens": 16, "block_size": 8}):
        engine = tiny_engine(family, **config)
        engine.add_adapter("a", path)
        for _ in ("cold", "warm"):
            outputs = engine.generate(prompts, GREEDY, adapter=names)
            for output, want in zip(outputs, wanted, strict=True):
                assert_same(output, *want, 1e-3)
        assert all(o.usage.cached_tokens == o.usage.prompt_tokens - 1 for o in outputs)


W = WINDOW


@pytest.mark.parametrize(
    ("family", "changes", "windows"),
    [
        ("mistral", {}, (W, W, W)),
        ("mistral", {"sliding_window": None}, (None, None, None)),
        ("mistral", {"sliding_window": ...}, (4096, 4096, 4096)),
        ("mistral", {"use_sliding_window": False, "max_window_layers": 2}, (W, W, W)),
        ("mistral", {"layer_types": ["full_attention", "sliding_attention", "full_attention"]}, (None, W, None)),
        ("mistral-layers", {}, (W, None, W)),
        ("mistral-layers", {"layer_types": None}, (W, W, W)),
        ("mistral-layers", {"model_type": "ministral", "architectures": ["MinistralForCausalLM"]}, (W, None, W)),
        ("qwen3-yarn", {}, (None, None, W)),
        ("qwen3-yarn", {"layer_types": None, "max_window_layers": 1}, (None, W, W)),
        ("qwen3-yarn", {"layer_types": None, "sliding_window": ..., "max_window_layers": 0}, (4096, 4096, 4096)),
        ("qwen3-yarn", {"layer_types": None, "max_window_layers": ...}, (None, None, None)),
        ("qwen3-yarn", {"layer_types": None, "use_sliding_window": False}, (None, None, None)),
        ("qwen2-window", {"layer_types": ["sliding_attention"] * 3}, (W, W, W)),
        ("llama", {"layer_types": ["full_attention"] * 3, "sliding_window": None}, (None, None, None)),
    ],
    ids=str,
)
def test_windows_of_the_layers(family, changes, windows):
    assert ModelConfig.from_hf(hf_json(family, **changes)).sliding_windows == windows


@pytest.mark.parametrize("family", BY_CLASS)
def test_what_missing_keys_mean(family):
    shape = {"hidden_size": 4096, "num_attention_heads": 64, "num_hidden_layers": 3, "intermediate_size": 64}
    kind = type(hf_config(family))
    raw = {"architectures": hf_json(family)["architectures"], "vocab_size": 512, **shape}
    config, peer = ModelConfig.from_hf(raw), kind.from_dict(raw)
    assert config.head_dim == (getattr(peer, "head_dim", None) or 64)
    assert config.num_kv_heads == peer.num_key_value_heads
    assert config.max_position_embeddings == peer.max_position_embeddings
    assert (config.rms_norm_eps, config.rope.theta) == (peer.rms_norm_eps, peer.rope_parameters["rope_theta"])
    assert (config.tie_word_embeddings, config.o_bias) == (peer.tie_word_embeddings, False)
    assert config.sliding_windows == (getattr(peer, "sliding_window", None),) * 3


@pytest.mark.parametrize(
    ("family", "changes", "match"),
    [
        ("llama", {"sliding_window": 24}, r"LlamaForCausalLM: sliding_window=24 is not supported"),
        ("granite", {"layer_types": ["sliding_attention"] * 3}, "there is no sliding_window"),
        ("qwen3", {"layer_types": ["sliding_attention"] * 3}, "there is no sliding_window"),
        ("mistral", {"layer_types": ["chunked_attention"] * 3}, "layer_types"),
        ("mistral", {"layer_types": ["sliding_attention"] * 2}, "layer_types"),
        ("mistral", {"sliding_window": 0}, "sliding_window"),
        ("mistral", {"model_type": "mixtral"}, "MistralForCausalLM: model_type='mixtral'"),
        ("llama", {"model_type": ["llama"]}, "model_type"),
    ],
    ids=str,
)
def test_windows_and_names_refused(family, changes, match):
    with pytest.raises(UnsupportedModelError, match=rf"\A[^\n]*{match}[^\n]*\Z"):
        ModelConfig.from_hf(hf_json(family, **changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"is_causal": False},
        {"per_layer_config": {"1": {"num_attention_heads": 2}}},
        {"attention_chunk_size": 16},
        {"kv_sharing_modes": ["own", "reuse", "own"]},
        {"partial_rotary_factor": 0.5},
        {"hidden_act": "gelu"},
        {"quantization_config": {"quant_method": "awq"}},
    ],
    ids=str,
)
@pytest.mark.parametrize("family", FAMILIES)
def test_keys_that_change_the_mathematics_are_refused_by_name(family, changes):
    name = "quantized weights" if "quantization_config" in changes else next(iter(changes))
    with pytest.raises(UnsupportedModelError, match=rf"\A\w+ForCausalLM: {name}[^\n]*\Z"):
        ModelConfig.from_hf(hf_json(family, **changes))
