"""Broken model and adapter folders: one typed line each, nothing half-loaded."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from alorakit import Engine
from alorakit.engine.errors import (
    AdapterError,
    AlorakitError,
    ModelNotFoundError,
    UnsupportedModelError,
    WeightsError,
)

from .test_parity import prompt_with


@pytest.fixture
def model(tiny_models, tmp_path):
    """A copy of a tiny sharded model that a test may break."""
    return shutil.copytree(tiny_models["llama"], tmp_path / "model")


@pytest.fixture
def adapter(tiny_models, make_adapter, tmp_path):
    """A copy of an adapter that a test may break."""
    return shutil.copytree(make_adapter(tiny_models["llama"]), tmp_path / "adapter")


def edit(path, **changes):
    raw = json.loads(path.read_text())
    raw.update(changes)
    path.write_text(json.dumps({k: v for k, v in raw.items() if v is not ...}))


def load(path):
    return Engine.from_pretrained(path, dtype="float32", device="cpu", cache_blocks=8)


def test_truncated_shard(model):
    shard = sorted(model.glob("*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(WeightsError, match=f"{shard.name}.*truncated"):
        load(model)


def test_missing_and_unexpected_tensors_are_named_together(model):
    index = json.loads((model / "model.safetensors.index.json").read_text())
    shard = model / index["weight_map"]["model.layers.0.mlp.up_proj.weight"]
    tensors = load_file(shard)
    tensors["model.layers.0.surprise"] = torch.zeros(1)
    del tensors["model.layers.0.mlp.up_proj.weight"]
    save_file(tensors, shard)
    with pytest.raises(WeightsError, match=r"unexpected .*surprise.*missing .*layers\.0\.mlp\.up_proj\.weight"):
        load(model)


@pytest.mark.parametrize("noise", [0.0, 1e-3], ids=["equal", "differs"])
def test_a_head_beside_the_embedding_it_is_tied_to(model, noise):
    index = json.loads((model / "model.safetensors.index.json").read_text())
    shard = model / index["weight_map"]["model.embed_tokens.weight"]
    tensors = load_file(shard)
    save_file(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"] + noise}, shard)
    if noise:
        with pytest.raises(WeightsError, match=r"lm_head\.weight differs from the embedding"):
            load(model)
    else:
        load(model).close()


def test_missing_shard_and_pickled_weights(model):
    shard = sorted(model.glob("*.safetensors"))[0]
    shard.unlink()
    with pytest.raises(WeightsError, match=f"shards missing: {shard.name}"):
        load(model)
    for file in model.glob("model*"):
        file.unlink()
    (model / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ModelNotFoundError, match="never loaded"):
        load(model)


def test_unknown_family_is_refused_by_name(model):
    edit(model / "config.json", architectures=["MambaForCausalLM"])
    with pytest.raises(UnsupportedModelError, match=r"MambaForCausalLM.*LlamaForCausalLM, Qwen2.*Granite"):
        load(model)


def test_not_a_model(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "file", tmp_path / "empty", tmp_path / "nowhere", "no such/model/name"):
        with pytest.raises(ModelNotFoundError) as caught:
            load(path)
        assert "\n" not in str(caught.value)
    (tmp_path / "empty" / "config.json").write_text("{nope")
    with pytest.raises(AlorakitError, match="JSON"):
        load(tmp_path / "empty")


@pytest.mark.parametrize(
    "changes,match",
    [
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias='all'"),
        ({"lora_bias": True}, "lora_bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"use_qalora": True}, "use_qalora"),
        ({"use_bdlora": {"x": 1}}, "use_bdlora"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"init_lora_weights": "olora"}, "olora"),
        ({"alora_invocation_string": "<go>", "alora_invocation_tokens": ...}, "legacy invocation_string"),
        ({"alora_invocation_tokens": []}, "alora_invocation_tokens"),
        ({"alora_invocation_tokens": [999999]}, "vocabulary"),
        ({"peft_type": "IA3"}, "IA3"),
        ({"r": 300}, "300"),
        ({"target_modules": ["nothing"]}, "matches no linear layer"),
        ({"target_modules": ["q_proj"]}, "unexpected"),
        ({"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]}, "missing"),
        ({"target_modules": "(("}, "regular expression"),
        ({"r": 4}, "has shape"),
        ({"something_new": {"a": 1}}, "something_new"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_adapter_features_are_refused_by_name(adapter, tiny_engine, changes, match):
    edit(adapter / "adapter_config.json", **changes)
    engine = tiny_engine()
    with pytest.raises(AdapterError, match=match) as caught:
        engine.add_adapter("a", adapter)
    assert "\n" not in str(caught.value)
    assert engine.adapters == {}


def test_adapter_files_broken(adapter, tiny_engine, tmp_path):
    engine = tiny_engine()
    weights = adapter / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(AdapterError, match="truncated"):
        engine.add_adapter("a", adapter)
    weights.unlink()
    with pytest.raises(AdapterError, match=r"no adapter_model\.safetensors"):
        engine.add_adapter("a", adapter)
    (adapter / "adapter_config.json").write_text("[1]")
    with pytest.raises(AdapterError, match="JSON object"):
        engine.add_adapter("a", adapter)
    with pytest.raises(AdapterError, match="no such folder"):
        engine.add_adapter("a", tmp_path / "nowhere")
    weights.write_bytes(whole)
    assert engine.adapters == {}


def test_adapter_of_another_shape_keeps_the_old_one(tiny_engine, tiny_models, make_adapter, adapter):
    engine = tiny_engine()
    engine.add_adapter("a", adapter)
    prompt = prompt_with(1, 1)
    before = engine.generate(prompt, adapter="a")[0].token_ids
    tensors = {k: v[:, :-1].contiguous() for k, v in load_file(adapter / "adapter_model.safetensors").items()}
    save_file(tensors, adapter / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match="has shape"):
        engine.add_adapter("a", adapter, replace=True)
    assert engine.generate(prompt, adapter="a")[0].token_ids == before


def test_an_adapter_file_that_changes_while_it_is_read(adapter, tiny_engine, monkeypatch):
    from alorakit.engine import adapter_loading

    engine, load = tiny_engine(), adapter_loading.load
    monkeypatch.setattr(adapter_loading, "load", lambda data: {k: t.half() for k, t in load(data).items()})
    with pytest.raises(AdapterError, match="changed while it was read"):
        engine.add_adapter("a", adapter)
    assert engine.adapters == {}


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn], ids=str)
def test_adapter_weights_that_need_scales_are_refused(adapter, tiny_engine, dtype):
    file = adapter / "adapter_model.safetensors"
    save_file({key: tensor.to(dtype) for key, tensor in load_file(file).items()}, file)
    with pytest.raises(AdapterError, match=r"q_proj.* is (I8|F8_E4M3)"):
        tiny_engine().add_adapter("a", adapter)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_adapters_keep_their_own_dtype_on_the_host(adapter, tiny_engine, dtype):
    file = adapter / "adapter_model.safetensors"
    save_file({key: tensor.to(dtype) for key, tensor in load_file(file).items()}, file)
    engine = tiny_engine()
    engine.add_adapter("a", adapter)
    assert {t.dtype for pair in engine._registry.get("a").weights.pairs.values() for t in (pair.a, pair.b)} == {dtype}
    assert len(engine.generate(prompt_with(1, 1), adapter="a")[0].token_ids) > 0


def test_another_bases_name_warns(adapter, tiny_engine):
    edit(adapter / "adapter_config.json", base_model_name_or_path="ibm-granite/granite-9b")
    with pytest.warns(UserWarning, match="granite-9b"):
        tiny_engine().add_adapter("a", adapter)
