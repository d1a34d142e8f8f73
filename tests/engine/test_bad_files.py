"""Values that a broken or hostile model or adapter folder may hold: each is refused by name, in one line."""

import json
from datetime import datetime

import pytest
import torch
from safetensors.torch import load_file, save_file

from alorakit.engine.adapter_config import AdapterConfig
from alorakit.engine.chat_template import ChatTemplate
from alorakit.engine.errors import (
    AdapterError,
    AlorakitError,
    ModelNotFoundError,
    TokenizerError,
    UnsupportedModelError,
    WeightsError,
)
from alorakit.engine.manifest import Manifest
from alorakit.engine.model_config import ModelConfig
from alorakit.engine.pretrained import resolve_model
from alorakit.engine.tokenizer import Tokenizer
from alorakit.engine.weights import load_decoder

from .conftest import hf_json
from .test_loading import model as model  # the fixture

DEEP = "[" * 200_000
SIZES = (
    "hidden_size", "num_attention_heads", "num_hidden_layers", "vocab_size", "intermediate_size",
    "num_key_value_heads", "head_dim", "max_position_embeddings",
)  # fmt: skip
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


def refused(error: type[AlorakitError], match: str):
    """Like pytest.raises, for a message of one line."""
    return pytest.raises(error, match=rf"\A[^\n]*{match}[^\n]*\Z")


@pytest.mark.parametrize("value", ["64", 0, -1, 1.5, [1], True, 10**12], ids=str)
@pytest.mark.parametrize("key", SIZES)
def test_sizes(key, value):
    with refused(UnsupportedModelError, key):
        ModelConfig.from_hf(hf_json("llama", **{key: value}))


@pytest.mark.parametrize("key", [key for key in SIZES if key not in ("num_key_value_heads", "head_dim")])
def test_sizes_that_may_not_be_null(key):
    with refused(UnsupportedModelError, key):
        ModelConfig.from_hf(hf_json("llama", **{key: None}))


def test_null_means_the_default_where_transformers_says_so():
    config = ModelConfig.from_hf(hf_json("llama", num_key_value_heads=None, head_dim=None, rope_parameters=None))
    assert (config.num_kv_heads, config.head_dim, config.rope.theta) == (4, 16, 1e4)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"rms_norm_eps": None}, "rms_norm_eps"),
        ({"rms_norm_eps": -1}, "rms_norm_eps"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps"),
        ({"rms_norm_eps": 10**400}, "rms_norm_eps"),
        ({"architectures": -1}, "architectures"),
        ({"architectures": {"a": 1}}, "architectures"),
        ({"architectures": [5]}, "architecture 5"),
        ({"rope_parameters": "64"}, "rope_parameters"),
        ({"rope_parameters": {"rope_type": "linear", "factor": "x"}}, "factor"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 0}}, "factor"),
        ({"rope_parameters": {"rope_type": ["linear"]}}, "rope type"),
        ({"rope_parameters": {**LLAMA3, "low_freq_factor": 0}}, "low_freq_factor"),
        ({"rope_parameters": {**LLAMA3, "high_freq_factor": 1.0}}, "high_freq_factor"),
        ({"rope_parameters": {"rope_theta": "x"}}, "rope_theta"),
        ({"eos_token_id": {}}, "eos_token_id"),
        ({"eos_token_id": [2, "3"]}, "eos_token_id"),
        ({"eos_token_id": 512}, "eos_token_id=512 must be null, an id from 0 to 511"),
        ({"quantization_config": "awq"}, "quantization_config"),
        ({"partial_rotary_factor": "a"}, "partial_rotary_factor"),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings"),
        ({"family": "qwen2-window", "layer_types": ["sliding_attention"]}, "layer_types"),
        ({"family": "qwen2-window", "layer_types": [["x"]] * 3}, "layer_types"),
        ({"family": "qwen2-window", "sliding_window": "24"}, "sliding_window"),
        ({"family": "qwen2-window", "sliding_window": 0}, "sliding_window"),
        ({"family": "granite", "logits_scaling": 0}, "logits_scaling"),
        ({"family": "granite", "attention_multiplier": "x"}, "attention_multiplier"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_model_values(changes, match):
    with refused(UnsupportedModelError, match):
        ModelConfig.from_hf(hf_json(**{"family": "llama"} | changes))


def test_generation_config_is_named():
    with refused(UnsupportedModelError, r"generation_config\.json: eos_token_id='x'"):
        ModelConfig.from_hf(hf_json("llama"), {"eos_token_id": "x"})


def load_weights(folder, **changes):
    config = ModelConfig.from_hf(json.loads((folder / "config.json").read_text()) | changes)
    return load_decoder(folder, config, torch.float32, torch.device("cpu"), 16)


def test_weights_are_compared_before_memory_is_taken(model):
    # 4 TB each: taking the memory first could only fail.
    with refused(WeightsError, r"embed_tokens\.weight has shape \[512, 64\], not \[16777216, 64\]"):
        load_weights(model, vocab_size=2**24)
    with refused(WeightsError, r"missing model\.layers\.3\..*missing model\.layers\.199\.mlp\.down_proj\.weight"):
        load_weights(model, num_hidden_layers=200, intermediate_size=2**24)


def test_weights_that_are_no_plain_floats(model):
    index = json.loads((model / "model.safetensors.index.json").read_text())
    shard = model / index["weight_map"]["model.norm.weight"]
    save_file(load_file(shard) | {"model.norm.weight": torch.ones(64, dtype=torch.int32)}, shard)
    with refused(WeightsError, r"model\.norm\.weight has dtype I32"):
        load_weights(model)


@pytest.mark.parametrize("text", [DEEP, "{}", '{"weight_map": [1]}', '{"weight_map": {"a": 5}}'], ids=range(4))
def test_index(model, text):
    (model / "model.safetensors.index.json").write_text(text)
    with refused(WeightsError, r"model\.safetensors\.index\.json"):
        load_weights(model)


@pytest.mark.parametrize("text", [DEEP, "{", "{}", "[]", '{"notes": 5}'], ids=range(5))
def test_marker(tmp_path, text):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "alorakit-source.json").write_text(text)
    with refused(ModelNotFoundError, r"alorakit-source\.json"):
        resolve_model(tmp_path)


@pytest.mark.parametrize("name", ["~nouser-at-all/x", "a" * 300, "/" + "a" * 300], ids=["user", "long", "long path"])
def test_names_that_are_no_paths(name):
    with refused(ModelNotFoundError, "not a usable path"):
        resolve_model(name)
    if name.startswith("/"):
        with refused(AdapterError, "no adapter_config"):
            AdapterConfig.load(name)
        assert Manifest.load(name) is None


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"target_modules": 5}, "target_modules"),
        ({"target_modules": [5]}, "target_modules"),
        ({"exclude_modules": 5}, "exclude_modules"),
        ({"layers_to_transform": "0"}, "layers_to_transform"),
        ({"layers_to_transform": 1.5}, "layers_to_transform"),
        ({"layers_to_transform": [True]}, "layers_to_transform"),
        ({"rank_pattern": [1]}, "rank_pattern"),
        ({"rank_pattern": "x"}, "rank_pattern"),
        ({"alpha_pattern": 5}, "alpha_pattern"),
        ({"alpha_pattern": {"q_proj": None}}, "lora_alpha"),
        ({"lora_alpha": 10**400}, "lora_alpha"),
        ({"lora_alpha": 1e300}, "lora_alpha"),
        ({"lora_alpha": True}, "lora_alpha"),
        ({"lora_alpha": float("nan")}, "lora_alpha"),
        ({"lora_alpha": float("inf")}, "lora_alpha"),
        ({"use_rslora": "yes"}, "use_rslora"),
        ({"init_lora_weights": 0}, "init_lora_weights"),
        ({"init_lora_weights": {"a": 1}}, "init_lora_weights"),
        ({"r": True}, "rank True"),
        ({"target_modules": "x" * 1001}, "1001 characters"),
        ({"target_modules": "((model|layers|\\.|[0-9a-z_])+)+X"}, "repeats a group"),
        ({"target_modules": "(.|.)*X"}, "repeats a group"),
        ({"target_modules": "(?:x{1,30}){1,30}"}, "repeats a group"),
        ({"target_modules": ".*" * 9 + "X"}, "repetitions"),
        ({"rank_pattern": {"(a+)+": 4}}, "rank_pattern"),
        ({"target_modules": "(" * 490 + ")" * 490}, "regular expression"),
        ({"target_modules": "a{99999999999}"}, "regular expression"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_adapter_values(tmp_path, changes, match):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 8, "target_modules": ["q_proj"]} | changes))
    with refused(AdapterError, match):
        AdapterConfig.load(tmp_path).modules(3)


@pytest.mark.parametrize(
    "pattern",
    [
        r".*\.(q|k|v)_proj",
        r"model\.layers\.(?:[0-9]|1[0-9])\.self_attn\.(?P<which>[qk])_proj",
        r"(?:.*?(?:language|text).*?(?:self_attn|mlp).*?(?:q_proj|k_proj).*?)|(?:\bmodel\.layers\.[\d]{1,}\."
        r"(?:self_attn|mlp)\.(?:(?:q_proj|k_proj)))",
        r"(?!.*mlp)(?:[(*+]|model)[^)(]+(\+)*q_proj",
    ],
)
def test_patterns_that_people_write(tmp_path, pattern):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 8, "target_modules": pattern}))
    assert (0, "q_proj") in AdapterConfig.load(tmp_path).modules(3)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"layout": "chta"}, "layout='chta' must be one of chat, mellea"),
        ({"layout": None}, "layout"),
        ({"labels": ["a", ""]}, "labels"),
        ({"labels": ["a", "a"]}, "labels"),
        ({"labels": "ab"}, "labels"),
        ({"labels": ["a"], "pass_labels": ["b"]}, r"pass_labels \['b'\]"),
        ({"labels": ["a"], "fail_labels": ["b"]}, r"fail_labels \['b'\]"),
        ({"metrics": {"loss": "x"}}, "metrics"),
        ({"metrics": [1]}, "metrics"),
        ({"requirements": 1}, "requirements"),
        ({"capability": 5}, "capability"),
        ({"surprise": 5}, "surprise"),
    ],
    ids=str,
)
def test_manifest_values(tmp_path, values, match):
    (tmp_path / "alorakit.json").write_text(json.dumps(values))
    with refused(AdapterError, match):
        Manifest.load(tmp_path)


def test_a_manifest_survives_the_file(tmp_path):
    manifest = Manifest(labels=("a", "b"), pass_labels=("a",), fail_labels=("b",), metrics={"val_loss": 1.0, "rows": 3})
    (tmp_path / "alorakit.json").write_text(manifest.to_json())
    assert Manifest.load(tmp_path) == manifest


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"added_tokens_decoder": [1]}, "added_tokens_decoder"),
        ({"added_tokens_decoder": {"x": "y"}}, "added_tokens_decoder"),
        ({"added_tokens_decoder": {"5000": 5}}, "added_tokens_decoder"),
        ({"added_tokens_decoder": "abc"}, "added_tokens_decoder"),
        ({"chat_template": [{"name": ["x"], "template": "a"}]}, "no template named 'default'"),
        ({"eos_token": "a\ud800"}, "eos_token is not valid Unicode"),
        ({"eos_token": {"content": "a\ud800"}}, "eos_token is not valid Unicode"),
    ],
    ids=ascii,
)
def test_tokenizer_values(tiny_tokenizer_dir, tmp_path, values, match):
    (tmp_path / "tokenizer.json").write_bytes((tiny_tokenizer_dir / "tokenizer.json").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(values))
    with refused(TokenizerError, match):
        Tokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("untrusted", [False, True])
def test_lone_surrogates(tiny_tokenizer_dir, untrusted):
    tokenizer = Tokenizer.from_pretrained(tiny_tokenizer_dir)
    chat = [{"role": "user", "content": "a\udcff"}]
    with refused(TokenizerError, r"not valid Unicode text: lone surrogate '\\udcff' at character 1"):
        tokenizer.encode("a\udcff", untrusted=untrusted)
    with refused(TokenizerError, "not valid Unicode text"):
        tokenizer.render(chat, untrusted=untrusted)
    with refused(TokenizerError, "not valid Unicode text"):
        tokenizer.apply_chat_template(chat)
    with refused(TokenizerError, "is 5, not text"):
        tokenizer.encode(5, untrusted=untrusted)


@pytest.mark.parametrize(
    ("source", "match"),
    [
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "too deeply nested"),
        ("{{ 'a' * 10**17 }}", "too large"),
        ("{% for i in range(99999) %}{% for j in range(99999) %}{{ 'x' * 99 }}{% endfor %}{% endfor %}", "8000000"),
        ("{{ lipsum(n=100000000) }}", "lipsum"),
    ],
    ids=["recursive", "deep", "memory", "endless", "lipsum"],
)
def test_templates_that_never_end(source, match):
    with refused(TokenizerError, match):
        ChatTemplate(source, datetime(2026, 1, 1)).render([], False)
