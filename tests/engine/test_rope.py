"""Rotary embedding: frequencies and scales are those of transformers to the bit; other types are refused by name."""

import shutil

import pytest
import torch
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from alorakit import Engine
from alorakit.engine.errors import ConfigError, UnsupportedModelError
from alorakit.engine.layers import RotaryEmbedding, inverse_frequencies
from alorakit.engine.model_config import ModelConfig

from .conftest import YARN, hf_config, hf_json, reference, reference_generate
from .test_loading import edit
from .test_parity import GREEDY, assert_same, prompt_with

# One family for each of transformers' classes, with head_dim 16, 24 and 32 among them.
CLASSES = pytest.mark.parametrize("family", ["llama3-rope", "qwen2", "qwen3-yarn", "mistral", "granite"])
SPELLINGS = pytest.mark.parametrize("spelling", ["rope_parameters", "rope_scaling"])
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0)
CASES = [
    dict(rope_type="linear", factor=4),
    LLAMA3 | dict(original_max_position_embeddings=128),
    LLAMA3,
    YARN,
    YARN | dict(rope_theta=1e6, factor=40, original_max_position_embeddings=4096),
    YARN | dict(original_max_position_embeddings=...),
    YARN | dict(factor=None),
    YARN | dict(factor=0.5),
    YARN | dict(attention_factor=0.7, mscale=2.0, mscale_all_dim=1.0),
    YARN | dict(mscale=0.707, mscale_all_dim=1.0),
    YARN | dict(mscale=0.707),
    YARN | dict(mscale=0, mscale_all_dim=1.0),
    YARN | dict(beta_fast=8, beta_slow=2.5, truncate=False),
    YARN | dict(beta_fast=None, beta_slow=0, truncate=None),
    YARN | dict(beta_fast=3, beta_slow=3, truncate=False),  # one bound
    YARN | dict(rope_theta=100.0, original_max_position_embeddings=10**6),  # every dimension is fast
    YARN | dict(original_max_position_embeddings=3),  # every dimension is slow
    YARN | dict(finetuned=True, low_freq_factor=9.0),  # nothing to yarn
]


def with_rope(family: str, spelling: str, params: dict) -> dict:
    """config.json with these parameters, as transformers 5 or 4 spells them."""
    params = {key: value for key, value in params.items() if value is not ...}
    if spelling == "rope_parameters":
        return hf_json(family, rope_parameters=params)
    theta = params.pop("rope_theta", ...)
    params["type"] = params.pop("rope_type")
    return hf_json(family, rope_parameters=..., rope_scaling=params, rope_theta=theta)


def assert_frequencies_equal(family: str, raw: dict) -> None:
    peer = type(hf_config(family)).from_dict(raw)
    want, factor = ROPE_INIT_FUNCTIONS[peer.rope_parameters["rope_type"]](peer)
    config = ModelConfig.from_hf(raw)
    assert torch.equal(inverse_frequencies(config.rope, config.head_dim), want)
    assert config.rope.attention_factor == factor


@CLASSES
@SPELLINGS
def test_frequencies_are_transformers(family, spelling):
    for params in CASES:
        assert_frequencies_equal(family, with_rope(family, spelling, dict(params)))


@pytest.mark.parametrize("params", [LLAMA3, YARN], ids=["llama3", "yarn"])
def test_an_original_length_beside_the_parameters_goes_first(params):
    params = params | {"original_max_position_embeddings": 32}
    raw = with_rope("llama", "rope_scaling", params) | {"original_max_position_embeddings": 100}
    assert_frequencies_equal("llama", raw)
    assert ModelConfig.from_hf(raw).rope.original_max_position_embeddings == 100


def test_the_attention_factor_scales_the_tables():
    config = ModelConfig.from_hf(with_rope("llama", "rope_parameters", YARN | dict(attention_factor=1.5)))
    cos, sin = RotaryEmbedding(config.rope, 16, 200, torch.float32, torch.device("cpu")).at(torch.tensor([0, 199]))
    torch.testing.assert_close(cos**2 + sin**2, torch.full((2, 1, 16), 1.5**2))


@pytest.mark.parametrize("family", ["llama-yarn", "qwen3-yarn"])
def test_yarn_beyond_its_original_and_its_stretched_length(family, tiny_models, tiny_engine):
    prompts = [prompt_with(1, 0, length) for length in (25, 120, 300)]
    for config in ({}, {"max_num_batched_tokens": 48}):
        outputs = tiny_engine(family, **config).generate(prompts, GREEDY)
        for prompt, output in zip(prompts, outputs, strict=True):
            assert_same(output, *reference_generate(reference(tiny_models[family]), prompt), 1e-3)


def test_yarn_reaches_its_stretched_length_whatever_the_file_declares(tiny_models, tmp_path):
    folder = shutil.copytree(tiny_models["llama-yarn"], tmp_path / "model")
    edit(folder / "config.json", max_position_embeddings=64)
    settings = dict(dtype="float32", device="cpu", block_size=16)
    prompt = prompt_with(1, 0, 100)
    with Engine.from_pretrained(folder, max_model_len=128, **settings) as engine:
        assert_same(engine.generate(prompt, GREEDY)[0], *reference_generate(reference(folder), prompt), 1e-3)
    with pytest.raises(ConfigError, match="max_model_len=129 is above the model's limit of 128"):
        Engine.from_pretrained(folder, max_model_len=129, **settings)
    edit(folder / "config.json", max_position_embeddings=300)
    assert ModelConfig.from_folder(folder).max_position_embeddings == 300


@CLASSES
@SPELLINGS
@pytest.mark.parametrize("kind", ["dynamic", "longrope", "proportional", "ntk", "mrope"])
def test_other_types_are_refused_by_name(family, spelling, kind):
    why = "depend on the sequence length" if kind in ("dynamic", "longrope") else "is not supported; supported: default"
    with pytest.raises(UnsupportedModelError, match=rf"ForCausalLM: rope type '{kind}' .*{why}"):
        ModelConfig.from_hf(with_rope(family, spelling, dict(rope_type=kind, factor=2.0, rope_theta=1e4)))


def test_rope_scaling_goes_before_rope_parameters():
    raw = hf_json("llama", rope_theta=5e5, rope_scaling={"type": "linear", "factor": 2.0})
    rope = ModelConfig.from_hf(raw | {"rope_parameters": {"rope_type": "default", "rope_theta": 7.0}}).rope
    assert (rope.theta, rope.kind, rope.factor) == (5e5, "linear", 2.0)


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"full_attention": {"rope_type": "default"}}, "rope parameter full_attention="),
        ({"rope_type": "default", "mrope_section": [8, 4, 4]}, "rope parameter mrope_section="),
        ({"rope_type": "default", "partial_rotary_factor": 0.5}, r"partial_rotary_factor=0\.5"),
        ({"rope_type": "linear"}, "factor is missing"),
        ({**LLAMA3, "low_freq_factor": ...}, "low_freq_factor is missing"),
        ({**YARN, "factor": ...}, "factor is missing"),
        ({**YARN, "factor": "4"}, "factor='4'"),
        ({**YARN, "factor": 1e9}, r"factor=1000000000\.0 must be 524288 at most"),
        ({**YARN, "rope_theta": 1.0}, r"rope_theta=1\.0 must be above 1"),
        ({**YARN, "original_max_position_embeddings": None}, "original_max_position_embeddings=None"),
        ({**YARN, "original_max_position_embeddings": 0}, "original_max_position_embeddings=0"),
        ({**YARN, "attention_factor": 0.0}, "attention_factor"),
        ({**YARN, "mscale": -1.0, "mscale_all_dim": 1.0}, "mscale"),
        ({**YARN, "beta_fast": "x"}, "beta_fast"),
        ({**YARN, "beta_slow": 1e-320}, "beta_slow"),
        ({**YARN, "truncate": "x"}, "truncate"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_parameters_refused_by_name(params, match):
    with pytest.raises(UnsupportedModelError, match=rf"\A[^\n]*{match}[^\n]*\Z"):
        ModelConfig.from_hf(with_rope("llama", "rope_parameters", params))
