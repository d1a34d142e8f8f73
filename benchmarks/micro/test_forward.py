"""A forward pass of SmolLM2-135M's shape over 2,048 keys on the CPU: in C where that can run, and in torch."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from alorakit.engine.attention import AttentionInput, CachedAttention, KVCache
from alorakit.engine.branches import additive_mask
from alorakit.engine.devices import pick_dtype
from alorakit.engine.model import Decoder
from alorakit.engine.model_config import ModelConfig
from alorakit.engine.native_decoder import NativeDecoder
from alorakit.engine.weights import random_decoder
from alorakit.kernels import ops

CPU, KEYS, BLOCK = torch.device("cpu"), 2048, 64
ROWS = (1, 8, 23, 64, 512)
SHAPE = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 100000.0,
    "tie_word_embeddings": True,
}


@pytest.fixture(scope="module")
def model() -> Iterator[Decoder]:
    """Random weights, packed where they can be; in C where it can run."""
    dtype = pick_dtype("auto", CPU)
    decoder = random_decoder(ModelConfig.from_hf(SHAPE), dtype, CPU, KEYS + max(ROWS))
    if ops.can_pack(CPU, dtype):
        decoder.pack()
        decoder.native = NativeDecoder.make(decoder)
    yield decoder
    decoder.release()


@pytest.mark.parametrize("how", ["C", "torch"])
@pytest.mark.parametrize("num", ROWS)
def test_forward(benchmark: Any, model: Decoder, num: int, how: str) -> None:
    """The layers and the final norm for the last rows of one sequence."""
    benchmark.group = f"forward pass, {num} rows over {KEYS:,} keys"
    native = model.native if how == "C" else None
    if how == "C" and native is None:
        pytest.skip("no processor with AVX512-BF16, or no C compiler")
    cache = KVCache(model.config, (KEYS + num) // BLOCK + 1, BLOCK, model.dtype, CPU)
    positions = torch.arange(KEYS, KEYS + num)
    starts = range(0, num, 128)  # as the engine cuts long runs of rows
    spans = [
        ops.AttentionSpan(
            start,
            min(start + 128, num),
            ((0, KEYS + min(start + 128, num)),),
            additive_mask(range(KEYS + start, KEYS + min(start + 128, num)), KEYS + start, model.dtype, CPU),
        )
        for start in starts
    ]
    given = AttentionInput(positions, ((KEYS, KEYS + num),), {None: ops.AttentionPlan(num, spans)})
    ids = torch.arange(num) + 100
    with torch.inference_mode():
        if native is not None:
            benchmark(native.forward, ids, positions, cache, given, None)
        else:
            benchmark(lambda: model.forward(ids, positions, CachedAttention(cache, model.config, given), None))
