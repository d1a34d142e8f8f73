"""What the peers are given: adapters in PEFT's and in llama.cpp's format, a random model that both can load."""

import shutil
from pathlib import Path

import gguf
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig

from alorakit import Engine, SamplingParams
from benchmarks.gpu_model import write_random_model
from benchmarks.peers import llama_cpp_peer, peft_peer
from benchmarks.roofline import GRANITE_8B_CONFIG

INVOCATION = [7, 5, 6]
LLAMA = {
    "architectures": ["LlamaForCausalLM"], "vocab_size": 128, "hidden_size": 64, "intermediate_size": 96,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
}  # fmt: skip
PROMPT = [*range(40, 80), *INVOCATION]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_model(tmp_path_factory.mktemp("made") / "m", LLAMA, torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def adapter(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return peft_peer.make_adapter(model, tmp_path_factory.mktemp("made") / "a", 8, INVOCATION, seed=3, std=0.5)


def test_an_adapter_is_seeded_and_peft_loads_all_of_it(model, adapter, tmp_path):
    again = peft_peer.make_adapter(model, tmp_path / "again", 8, INVOCATION, seed=3, std=0.5)
    other = peft_peer.make_adapter(model, tmp_path / "other", 8, INVOCATION, seed=4, std=0.5)
    weights = [load_file(folder / "adapter_model.safetensors") for folder in (adapter, again, other)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not any(torch.equal(weights[0][name], weights[2][name]) for name in weights[0])
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), adapter).state_dict()
    assert len(weights[0]) == 2 * 3 * 2  # layers, projections, A and B
    for name, value in weights[0].items():
        assert torch.equal(loaded[name.replace(".weight", ".default.weight")], value), name


def test_engine_and_peft_answer_alike_on_a_random_model_with_a_random_adapter(model, adapter):
    reference = peft_peer.load_adapter(model, adapter, torch.float32)
    with Engine.from_pretrained(str(model), dtype="float32") as engine:
        engine.add_adapter("a", adapter)
        base, ours = engine.generate([PROMPT, PROMPT], SamplingParams(max_tokens=8, ignore_eos=True), [None, "a"])
    assert ours.token_ids == peft_peer.generate(reference, PROMPT, 8) != base.token_ids


def test_a_random_granite_knows_the_labels_of_the_suite(tmp_path):
    small = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2}  # fmt: skip
    folder = write_random_model(tmp_path / "g", GRANITE_8B_CONFIG | small, torch.device("cpu"), torch.bfloat16)
    with Engine.from_pretrained(str(folder)) as engine:
        assert engine.model_config.num_layers == 2
        found = engine.score([1000, 1001], ["yes", "no"])
    yes, no = found
    assert (yes.text, no.text) == ("yes", "no") and yes.logprob != no.logprob


def test_an_adapter_as_a_gguf_is_what_llama_cpp_adds_to_its_matrices(model, adapter, tmp_path):
    base = gguf.GGUFReader(llama_cpp_peer.write_gguf(model, tmp_path / "m.gguf"))
    made = gguf.GGUFReader(llama_cpp_peer.write_adapter_gguf(model, adapter, tmp_path / "a.gguf"))
    fields = {name: field.contents() for name, field in made.fields.items()}
    assert fields["general.type"] == "adapter" and fields["adapter.type"] == "lora"
    assert fields["adapter.lora.alpha"] == 8.0 and fields["adapter.alora.invocation_tokens"] == INVOCATION
    tensors = {t.name: values(t) for t in (*base.tensors, *made.tensors)}
    weights = load_file(adapter / "adapter_model.safetensors")
    plain = load_file(model / "model.safetensors")
    heads = {"q": 4, "k": 2, "v": None}
    for projection, num in heads.items():
        name = f"model.layers.1.self_attn.{projection}_proj"
        a, b = (weights[f"base_model.model.{name}.lora_{which}.weight"] for which in "AB")
        merged = plain[f"{name}.weight"] + b @ a
        if num is not None:  # llama.cpp rotates neighbouring dimensions, transformers halves
            merged = merged.view(num, 2, -1, 64).transpose(1, 2).reshape(merged.shape)
        theirs = f"blk.1.attn_{projection}.weight"
        ours = tensors[theirs] + tensors[f"{theirs}.lora_b"] @ tensors[f"{theirs}.lora_a"]
        torch.testing.assert_close(ours, merged, atol=0.1, rtol=0.05)


def test_llama_cpp_switches_to_its_adapter_at_the_invocation(model, adapter, tmp_path):
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed here")
    config = LlamaConfig.from_pretrained(model)
    llama = llama_cpp_peer.LlamaCpp(
        llama_cpp_peer.write_gguf(model, tmp_path / "m.gguf"), config.max_position_embeddings, 1,
        llama_cpp_peer.write_adapter_gguf(model, adapter, tmp_path / "a.gguf"),
    )  # fmt: skip
    context, question = PROMPT[:20], PROMPT[20:-3]
    llama.prefill(context)
    base = llama.generate(PROMPT[20:], 4, 20)
    adapted = llama.check(question, INVOCATION, 4, 20)
    assert llama.generate(PROMPT[20:], 4, 20) == base != adapted
    reference = peft_peer.load_adapter(model, adapter, torch.float32)
    assert adapted[0] == peft_peer.generate(reference, PROMPT, 1)[0]


def test_an_adapter_of_something_that_llama_cpp_has_no_name_for_is_refused(model, adapter, tmp_path):
    other = shutil.copytree(adapter, tmp_path / "x")
    unknown = {"base_model.model.model.layers.0.mlp.router.lora_A.weight": torch.zeros(8, 64)}
    save_file(unknown, other / "adapter_model.safetensors")
    with pytest.raises(KeyError, match=r"mlp\.router"):
        llama_cpp_peer.write_adapter_gguf(model, other, tmp_path / "x.gguf")


def values(tensor: gguf.ReaderTensor) -> torch.Tensor:
    """A tensor of a GGUF as float32, as rows of numbers."""
    shape = [int(size) for size in reversed(tensor.shape)]
    if tensor.tensor_type == gguf.GGMLQuantizationType.BF16:
        return torch.frombuffer(bytearray(tensor.data.tobytes()), dtype=torch.bfloat16).view(shape).float()
    return torch.from_numpy(tensor.data.copy()).view(shape).float()
