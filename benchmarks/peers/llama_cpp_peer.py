"""llama.cpp through llama-cpp-python, if that is installed; the model as a BF16 GGUF, written here."""

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
_OUTER = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}


class LlamaCpp:
    """A context of llama.cpp that is fed token ids and decodes greedily."""

    def __init__(self, gguf: Path, max_tokens: int, threads: int) -> None:
        """Load ``gguf`` with room for ``max_tokens``; matrices BF16, KV F16 as is its default."""
        from llama_cpp import Llama

        self._llama = Llama(
            str(gguf),
            n_ctx=max_tokens,
            n_batch=512,  # its default for both; 2,048 at once is no faster
            n_ubatch=512,
            n_threads=threads,
            n_threads_batch=threads,
            verbose=False,
        )

    def prefill(self, ids: list[int], keep: int = 0) -> int:
        """Read ``ids`` after the first ``keep`` tokens of what was read before; the greedy next token."""
        self._llama.n_tokens = keep  # eval drops what lies after it
        self._llama.eval(ids)
        return self._choose()

    def generate(self, ids: list[int], new: int, keep: int = 0) -> list[int]:
        """``new`` greedy tokens after ``ids``, read after the first ``keep`` tokens of what was read before."""
        out = [self.prefill(ids, keep)]
        while len(out) < new:
            self._llama.eval(out[-1:])
            out.append(self._choose())
        return out

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
    heads = {"q_proj": config.num_heads, "k_proj": config.num_kv_heads}
    for shard in shard_files(folder):
        with safe_open(shard, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  not a mapping
                tensor = file.get_tensor(name)
                for projection, num in heads.items():
                    if projection in name:
                        tensor = tensor.view(num, 2, -1, tensor.shape[1]).transpose(1, 2).reshape(tensor.shape)
                _add(writer, _gguf_name(name), tensor)
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
