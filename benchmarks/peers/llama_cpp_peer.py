"""llama.cpp through llama-cpp-python, if that is installed; the model as a BF16 GGUF, written here."""

import ctypes
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from alorakit.engine.model_config import ModelConfig
from alorakit.engine.weights import shard_files

HOW = "pip install llama-cpp-python (built for this machine: CMAKE_ARGS=-DGGML_NATIVE=ON)"
# Of a layer, the Hugging Face name and llama.cpp's.
_NAMES = {
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
_OUTER = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


class LlamaCpp:
    """A context of llama.cpp that is fed token ids and decodes greedily."""

    def __init__(self, gguf: Path, max_tokens: int, threads: int, adapter: Path | None = None) -> None:
        """Load ``gguf`` with room for ``max_tokens``, KV F16 as is its default; and an adapter, which is off at first.

        Raises:
            RuntimeError: llama.cpp does not take the adapter.
        """
        import llama_cpp

        self._api = llama_cpp
        self._llama = llama_cpp.Llama(
            str(gguf),
            n_ctx=max_tokens,
            n_batch=512,  # its default for both; 2,048 at once is no faster
            n_ubatch=512,
            n_threads=threads,
            n_threads_batch=threads,
            verbose=False,
        )
        self._adapter = None
        if adapter is not None:
            self._adapter = llama_cpp.llama_adapter_lora_init(self._llama._model.model, str(adapter).encode())
            if not self._adapter:
                raise RuntimeError(f"{adapter}: llama.cpp does not take it as an adapter of {gguf}")

    def prefill(self, ids: list[int], keep: int = 0) -> int:
        """Read ``ids`` after the first ``keep`` tokens of what was read before; the greedy next token."""
        self._llama.n_tokens = keep  # eval drops what lies after it
        self._llama.eval(ids)
        return self._choose()

    def generate(self, ids: list[int], new: int, keep: int = 0) -> list[int]:
        """``new`` greedy tokens after ``ids``, read after the first ``keep`` tokens of what was read before."""
        return self._decode(self.prefill(ids, keep), new)

    def check(self, question: list[int], invocation: list[int], new: int, keep: int) -> list[int]:
        """As :meth:`generate`, by the adapter from the first token of ``invocation`` on: an aLoRA, as PEFT has it.

        llama.cpp applies adapters to whole calls, so the base model reads the question in a call of its own. Its server
        does the same, but from one token earlier on.
        """
        self.prefill(question, keep)
        self._apply(1)
        try:
            return self._decode(self.prefill(invocation, keep + len(question)), new)
        finally:
            self._apply(0)

    def _decode(self, first: int, new: int) -> list[int]:
        out = [first]
        while len(out) < new:
            self._llama.eval(out[-1:])
            out.append(self._choose())
        return out

    def _apply(self, num: int) -> None:
        adapters = (self._api.llama_adapter_lora_p_ctypes * 1)(self._adapter)
        scales = (ctypes.c_float * 1)(1.0)
        if self._api.llama_set_adapters_lora(self._llama._ctx.ctx, adapters, num, scales):
            raise RuntimeError("llama.cpp does not apply its adapter")

    def _choose(self) -> int:
        llama = self._llama
        pointer: Any = llama._ctx.get_logits()  # of the last token: llama-cpp-python asks for no others
        return int(np.ctypeslib.as_array(pointer, shape=(llama.n_vocab(),)).argmax())


def available() -> bool:
    """Whether llama-cpp-python can be imported."""
    try:
        import llama_cpp  # noqa: F401
    except (ImportError, OSError, RuntimeError):  # the latter two: its shared library does not load
        return False
    return True


def write_gguf(folder: Path, out: Path) -> Path:
    """The Llama model of ``folder`` as a GGUF: matrices BF16, norms F32, and a vocabulary without texts (ids are fed).

    Queries and keys are reordered, for llama.cpp's ``llama`` rotates neighbouring dimensions instead of halves.
    """
    import gguf

    config = ModelConfig.from_folder(folder)
    writer = gguf.GGUFWriter(out, "llama")
    writer.add_block_count(config.num_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope.theta)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    writer.add_tokenizer_model("no_vocab")
    for shard in shard_files(folder):
        with safe_open(shard, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  not a mapping
                _add(writer, _gguf_name(name), _reordered(name, file.get_tensor(name), config))
    return _written(writer, out)


def write_adapter_gguf(folder: Path, adapter: Path, out: Path) -> Path:
    """PEFT's adapter in the folder ``adapter``, of the model in ``folder``, as a GGUF: matrices BF16.

    Raises:
        KeyError: It adapts something that :func:`write_gguf` has no name for.
    """
    import gguf

    config = ModelConfig.from_folder(folder)
    settings = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    writer = gguf.GGUFWriter(out, "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, settings["lora_alpha"])
    if invocation := settings.get("alora_invocation_tokens"):
        writer.add_key_value(gguf.Keys.Adapter.ALORA_INVOCATION_TOKENS, invocation, gguf.GGUFValueType.ARRAY,
                             gguf.GGUFValueType.UINT32)  # fmt: skip
    with safe_open(adapter / "adapter_model.safetensors", framework="pt") as file:
        for name in file.keys():  # noqa: SIM118  not a mapping
            tensor, which = file.get_tensor(name), "b" if "lora_B" in name else "a"
            if which == "b":
                tensor = _reordered(name, tensor, config)
            plain = name.removeprefix("base_model.model.").replace(f".lora_{which.upper()}.weight", ".weight")
            _add(writer, f"{_gguf_name(plain)}.lora_{which}", tensor)
    return _written(writer, out)


def _reordered(name: str, tensor: torch.Tensor, config: ModelConfig) -> torch.Tensor:
    """Rows of queries and keys as llama.cpp rotates them, other tensors as they are."""
    for projection, num in (("q_proj", config.num_heads), ("k_proj", config.num_kv_heads)):
        if projection in name:
            return tensor.view(num, 2, -1, tensor.shape[1]).transpose(1, 2).reshape(tensor.shape)
    return tensor


def _written(writer: Any, out: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


def _gguf_name(name: str) -> str:
    if name in _OUTER:
        return _OUTER[name]
    _, _, index, rest = name.split(".", 3)
    return f"blk.{index}.{_NAMES[rest.removesuffix('.weight')]}.weight"


def _add(writer: Any, name: str, tensor: torch.Tensor) -> None:
    import gguf

    if tensor.dim() == 1:
        writer.add_tensor(name, tensor.float().numpy())
    else:
        raw = tensor.to(torch.bfloat16).contiguous().view(torch.uint8).numpy()
        writer.add_tensor(name, raw, raw_dtype=gguf.GGMLQuantizationType.BF16)
