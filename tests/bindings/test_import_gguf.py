"""``m alora import-gguf``: a small GGUF file becomes a folder whose model is the one that was written."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from alorakit import Engine, SamplingParams
from alorakit.bindings.cli.main import m_app

RUN = CliRunner()
HEADS, KV_HEADS = 4, 2
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def interleaved(weight: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """Rows of a rotary projection in the order that GGUF's llama has them: the halves of each head in turns."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(path: Path, model: LlamaForCausalLM, tokenizer: Path, quantize: bool = False) -> Path:
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(512)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(config.hidden_size // HEADS)
    raw = json.loads((tokenizer / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = {**raw["model"]["vocab"], **{token["content"]: token["id"] for token in raw["added_tokens"]}}
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    special = {token["content"] for token in raw["added_tokens"]}
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in special else 1 for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in raw["model"]["merges"]])
    writer.add_bos_token_id(vocabulary["<|im_start|>"])
    writer.add_eos_token_id(vocabulary["<|im_end|>"])
    writer.add_chat_template((tokenizer / "chat_template.jinja").read_text(encoding="utf-8"))
    for name, tensor in model.state_dict().items():
        weight, parts = tensor.float().numpy(), name.removeprefix("model.").removesuffix(".weight").split(".")
        if parts[0] == "layers":
            kind = ".".join(parts[2:])
            if kind in ("self_attn.q_proj", "self_attn.k_proj"):
                weight = interleaved(weight, HEADS if kind.endswith("q_proj") else KV_HEADS)
            told = f"blk.{parts[1]}.{NAMES[kind]}.weight"
        else:
            told = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}[parts[0]] + ".weight"
        if quantize and weight.ndim == 2:
            kind_of = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(told, gguf.quantize(weight, kind_of), raw_dtype=kind_of)
        else:
            writer.add_tensor(told, weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def model(tiny_tokenizer_dir: Path) -> LlamaForCausalLM:
    torch.manual_seed(0)
    raw = json.loads((tiny_tokenizer_dir / "tokenizer.json").read_text(encoding="utf-8"))
    ids = [*raw["model"]["vocab"].values(), *(token["id"] for token in raw["added_tokens"])]
    config = LlamaConfig(
        vocab_size=max(ids) + 1, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS, max_position_embeddings=512, initializer_range=0.2, tie_word_embeddings=False,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def run(*args: object, code: int = 0) -> Any:
    result = RUN.invoke(m_app(), ["alora", "import-gguf", *map(str, args)])
    assert result.exit_code == code, result.output
    return result


def test_the_model_is_the_one_that_was_written(
    model: LlamaForCausalLM, tiny_tokenizer_dir: Path, tmp_path: Path
) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", model, tiny_tokenizer_dir)
    result = run(file, tmp_path / "out" / "model", "--dtype", "float32", "--json")
    report, tensors = json.loads(result.stdout), len(model.state_dict())
    told = result.stderr.splitlines()
    assert (told[0], told[-3:]) == (
        f"read 0/{tensors} tensors",
        [f"read {tensors}/{tensors} tensors", "write 0/1 float32", "write 1/1 float32"],
    )
    assert (report["architecture"], report["quantization"], report["usable"]) == ("llama", "F32", True)
    engine = Engine.from_pretrained(tmp_path / "out" / "model", dtype="float32", device="cpu")
    ids = engine.tokenizer.encode("The pump vibrates at 3100 RPM; yes or no?")
    with torch.no_grad():
        wanted = model.generate(
            torch.tensor([ids]), max_new_tokens=12, do_sample=False, eos_token_id=-1, pad_token_id=0
        )
    [answer] = engine.generate(ids, SamplingParams(max_tokens=12, ignore_eos=True))
    assert answer.token_ids == wanted[0, len(ids) :].tolist()
    chat = [{"role": "user", "content": "Hi"}]
    assert "<|im_start|>user\nHi<|im_end|>" in engine.tokenizer.decode(
        engine.tokenizer.render(chat), skip_special_tokens=False
    )
    engine.close()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model"]


def test_quantized_weights_are_told_of(model: LlamaForCausalLM, tiny_tokenizer_dir: Path, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", model, tiny_tokenizer_dir, quantize=True)
    assert "dequantized from Q8_0 to bfloat16" in run(file, tmp_path / "out").stdout
    assert "Q8_0" in json.loads((tmp_path / "out" / "alorakit-source.json").read_text())["notes"]
    before = sorted(tmp_path.iterdir())
    assert "nothing is written over it" in run(file, tmp_path / "out", code=2).stderr
    assert sorted(tmp_path.iterdir()) == before


def test_bad_files(model: LlamaForCausalLM, tiny_tokenizer_dir: Path, tmp_path: Path) -> None:
    good = write_gguf(tmp_path / "good.gguf", model, tiny_tokenizer_dir).read_bytes()
    bad = tmp_path / "bad.gguf"
    for content, message in (
        (b"", "no GGUF file"),
        (b"not a model at all", "no GGUF file"),
        (good[: len(good) // 2], "no GGUF file"),
        (good.replace(b"llama", b"zebra"), "architecture='zebra'"),
    ):
        bad.write_bytes(content)
        line = run(bad, tmp_path / "out", code=2).stderr
        assert message in line and line.count("\n") == 1, line
    assert "no such file" in run(tmp_path / "gone.gguf", tmp_path / "out", code=2).stderr
    assert "no such user" in run(bad, "~nobody-of-that-name/out", code=2).stderr
    assert "dtype='int8'" in run(bad, tmp_path / "out", "--dtype", "int8", code=2).stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.gguf", "good.gguf"]


def test_what_transformers_refuses(model: LlamaForCausalLM, tiny_tokenizer_dir: Path, tmp_path: Path) -> None:
    """A whole file without a part that a conversion needs."""
    good = write_gguf(tmp_path / "good.gguf", model, tiny_tokenizer_dir).read_bytes()
    (tmp_path / "bad.gguf").write_bytes(good.replace(b"tokenizer.ggml.tokens", b"tokenizer.ggml.tokenz"))
    assert "transformers cannot convert it" in run(tmp_path / "bad.gguf", tmp_path / "out", code=2).stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.gguf", "good.gguf"]
