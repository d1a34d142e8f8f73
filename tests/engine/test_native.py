"""The decoder in C computes what the decoder computes: held against float32 by brute force, and torch's bfloat16."""

import gc
import weakref

import pytest
import torch
from torch import Tensor

from alorakit import Engine, SamplingParams
from alorakit.engine.adapter_slots import AdapterSlots
from alorakit.engine.adapters import FUSED, Adapter, linear_shapes
from alorakit.engine.attention import AttentionInput, CachedAttention, KVCache
from alorakit.engine.attention_plan import Planner
from alorakit.engine.batched_adapters import BatchedAdapters
from alorakit.engine.errors import NumericsError
from alorakit.engine.model import Decoder
from alorakit.engine.model_config import ModelConfig
from alorakit.engine.native_decoder import NativeDecoder
from alorakit.engine.weights import random_decoder
from alorakit.kernels import native_build, native_layers, reference
from tests.attention_batches import Rows, place, slots, visible
from tests.native import needs_native

from .conftest import ALL_SEVEN, hf_json
from .folders import make_adapter as make_folder
from .folders import make_model
from .test_adapter_slots import make

CPU, SIZE, LAYERS = torch.device("cpu"), 16, 3

MODELS = {
    "llama": ("llama", dict(head_dim=64)),
    "wide": ("llama", dict(head_dim=128, num_attention_heads=6, vocab_size=515, intermediate_size=208)),
    "biases": ("linear-rope", dict(head_dim=64)),
    "qwen3": ("qwen3", dict(head_dim=64)),
    "window": ("mistral-layers", dict(head_dim=64)),
    "granite": ("granite", dict(head_dim=64)),
}
BATCHES = {
    "one": [Rows(0)],
    "one-far": [Rows(700)],
    "suffix": [Rows(130, 23)],
    "several": [Rows(5), Rows(64, 3), Rows(37), Rows(300, 17)],
    "ten": [Rows(10 * i) for i in range(10)],
    "prefix": [Rows(330 + i, prefix=(("a", 20),)) for i in range(4)] + [Rows(170, 5, prefix=(("b", 9),))] * 2,
    "branches": [Rows(90, 2, candidates=(3, 1, 4)), Rows(80, draft=4), Rows(3)],
    "many": [Rows(40, 150), Rows(9), Rows(0, 200), Rows(70, 130)],
}


def config_of(name: str) -> ModelConfig:
    family, changes = MODELS[name]
    return ModelConfig.from_hf(hf_json(family, **changes))


def decoders(config: ModelConfig) -> tuple[Decoder, Decoder]:
    """One with packed bfloat16 weights, and the same in float32."""
    narrow, wide = (random_decoder(config, dtype, CPU, 1024) for dtype in (torch.bfloat16, torch.float32))
    torch.manual_seed(0)
    for a, b in zip(tensors(narrow), tensors(wide), strict=True):
        a.copy_(torch.randn(a.shape) * 0.1 + (a.dim() == 1))
        b.copy_(a)
    narrow.pack()
    return narrow, wide


def tensors(decoder: Decoder) -> list[Tensor]:
    found = [decoder.embedding, decoder.final_norm, decoder.lm_head.weight]
    for layer in decoder.layers:
        found += [layer.input_norm, layer.post_norm, *(layer.qk_norm or ())]
        for linear in (layer.qkv, layer.o, layer.gate_up, layer.down):
            found += [linear.weight, *([] if linear.bias is None else [linear.bias])]
    return found


class BruteForce:
    """The decoder's attention and adapters in float32, entry by entry and row by row."""

    def __init__(self, config, cache, placed, adapters: list[Adapter | None]):
        self.config, self.cache, self.placed, self.adapters = config, cache, placed, adapters

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys, values = self.cache[layer]
        out = []
        for p in self.placed:
            rows, index = slice(p.row, p.row + p.entry.num_rows), slots(p, SIZE)
            keys[:, index[p.entry.start :]] = k[rows].transpose(0, 1)
            values[:, index[p.entry.start :]] = v[rows].transpose(0, 1)
            seen = visible(p, self.config.sliding_windows[layer])
            out.append(
                reference.paged_attention(q[rows], keys, values, index.tolist(), seen, self.config.attention_scale)
            )
        return torch.cat(out)

    def lora(self, layer: int, projection: str, x: Tensor, out: Tensor) -> Tensor:
        shapes = linear_shapes(self.config)
        for row, adapter in enumerate(self.adapters):
            column = 0
            for target in FUSED[projection]:
                pair = adapter.weights.pairs.get((layer, target)) if adapter else None
                if pair is not None:
                    delta = pair.scaled_b().bfloat16().float() @ (pair.a.bfloat16().float() @ x[row])
                    out[row, column : column + shapes[target][1]] += delta
                column += shapes[target][1]
        return out


def run_all(name: str, batch: list[Rows], adapters: bool):
    """Hidden states and written cache of the C kernels, of torch in bfloat16, and by brute force in float32."""
    config = config_of(name)
    narrow, wide = decoders(config)
    placed, num_blocks = place(batch, SIZE)
    num_rows = sum(p.entry.num_rows for p in placed)
    caches = [KVCache(config, num_blocks, SIZE, dtype, CPU) for dtype in (torch.bfloat16,) * 2 + (torch.float32,)]
    filled = torch.randn(caches[0].data.shape).bfloat16()
    for cache in caches:
        cache.data.copy_(filled)
    owned = torch.zeros(num_blocks * SIZE, dtype=torch.bool)
    for p in placed:
        owned[slots(p, SIZE)] = True
    caches[0].data[:, :, :, ~owned] = float("nan")  # what nobody sees is not read
    ids = torch.randint(0, config.vocab_size, (num_rows,))
    own = [slots(p, SIZE)[p.entry.start :] for p in placed]
    positions = torch.cat([torch.arange(p.entry.start, p.entry.start + p.entry.num_rows) for p in placed])
    where, table = torch.cat(own), AdapterSlots(config, CPU, torch.bfloat16, 8)
    few = [
        make(0, rank=4, layers=range(LAYERS), config=config), make(1, rank=5, layers=range(LAYERS), config=config),
        make(2, rank=33, targets=ALL_SEVEN, layers=[0, 2], config=config),
        make(3, rank=16, targets=["q_proj", "v_proj", "up_proj"], layers=range(LAYERS), config=config),
    ]  # fmt: skip
    for adapter in few:
        table.acquire(adapter)
    chosen = [few[row // 11 % 4] if adapters and row % 13 != 3 else None for row in range(num_rows)]
    segments = [(row, row + 1, adapter) for row, adapter in enumerate(chosen) if adapter is not None]

    def given(pairs: bool) -> AttentionInput:
        windows = set(config.sliding_windows)
        plans = {w: Planner(w, SIZE, torch.bfloat16, CPU, pairs).plan(placed) for w in windows}
        return AttentionInput(where, tuple((int(slot), int(slot) + 1) for slot in where), plans)

    brute = BruteForce(config, caches[2].data, placed, chosen)
    with torch.inference_mode():
        batched = BatchedAdapters(table, segments) if segments else None
        native = NativeDecoder(narrow)
        got = native.forward(ids, positions, caches[0], given(False), batched)
        eager = narrow.forward(ids, positions, CachedAttention(caches[1], config, given(True)), batched)
        want = wide.forward(ids, positions, brute, brute.lora if segments else None)
        logits = native.head(got), wide.lm_head(got.float())
    written = [cache.data[:, :, :, where] for cache in caches]
    untouched = owned.index_fill(0, where, False)
    assert torch.equal(caches[0].data[:, :, :, untouched], filled[:, :, :, untouched])
    return (got, eager, want), written, logits


def error(got: Tensor, want: Tensor) -> float:
    return float((got.float() - want).norm() / want.norm())


def assert_as_near_as_torch(name: str, batch: list[Rows], adapters: bool) -> None:
    states, written, (logits, wanted) = run_all(name, batch, adapters)
    for got, eager, want in (states, written):
        assert got.dtype == torch.bfloat16 and got.isfinite().all()
        assert error(got, want) <= 1.5 * error(eager, want) + 1e-4, (error(got, want), error(eager, want))
    torch.testing.assert_close(logits.float(), wanted, atol=2e-2, rtol=8e-3)


@pytest.fixture
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@needs_native
@pytest.mark.parametrize("threads", [1, 3], indirect=True)
@pytest.mark.parametrize("adapters", [False, True], ids=["base", "adapters"])
@pytest.mark.parametrize("batch", BATCHES)
def test_every_batch(batch, adapters, threads):
    assert_as_near_as_torch("llama", BATCHES[batch], adapters)


@needs_native
@pytest.mark.parametrize("threads", [2], indirect=True)
@pytest.mark.parametrize("batch", ["suffix", "several", "branches"])
@pytest.mark.parametrize("model", [name for name in MODELS if name != "llama"])
def test_every_kind_of_model(model, batch, threads):
    assert_as_near_as_torch(model, BATCHES[batch], True)


@needs_native
def test_a_row_that_is_not_finite_spoils_no_other_sequence(tmp_path, tiny_tokenizer_dir):
    model = make_model(tmp_path / "model", tiny_tokenizer_dir, head_dim=64)
    with Engine.from_pretrained(model, device="cpu", dtype="bfloat16") as engine:
        assert engine._runner.model.native is not None
        ids = [[7, 8, 9, 10], [20, 8, 9, 10, 11], [7, 8, 30]]
        params = SamplingParams(max_tokens=6, ignore_eos=True)
        want = [out.token_ids for out in engine.generate(ids, params)]
        engine._runner.model.embedding[300] = float("nan")
        for prompt in ([7, 8, 9, 10], [5, 300, 6, 8], [7, 8, 30]):
            engine.add_request(prompt, params)
        ended = []
        while engine.has_unfinished:
            ended += engine.step()
        [bad] = [out for out in ended if out.finish_reason == "error"]
        first, last = (out for out in ended if out is not bad)
        assert [first.token_ids, last.token_ids] == [want[0], want[2]]
        assert isinstance(bad.error, NumericsError)


@needs_native
def test_beside_matrix_registers_only_small_batches_run_in_c(tmp_path, tiny_tokenizer_dir, monkeypatch):
    model = make_model(tmp_path / "model", tiny_tokenizer_dir, head_dim=64)
    flags = native_build.processor_flags()
    monkeypatch.setattr(native_layers, "processor_flags", lambda: flags | {"amx_bf16"})
    with Engine.from_pretrained(model, device="cpu", dtype="bfloat16") as engine:
        batches = []
        native = engine._runner.model.native
        real = native.forward
        monkeypatch.setattr(native, "forward", lambda ids, *rest: batches.append(len(ids)) or real(ids, *rest))
        engine.generate([list(range(10, 75)), list(range(75, 78))], SamplingParams(max_tokens=3, ignore_eos=True))
        engine.generate([list(range(100, 164))], SamplingParams(max_tokens=1))
    assert batches == [2, 2, 64]


@needs_native
def test_adapters_that_went_are_not_kept(tmp_path, tiny_tokenizer_dir):
    model = make_model(tmp_path / "model", tiny_tokenizer_dir, head_dim=64)
    adapter = make_folder(tmp_path / "adapter", model, ["q_proj", "v_proj"], 8, None)
    with Engine.from_pretrained(model, device="cpu", dtype="bfloat16") as engine:
        engine.add_adapter("a", adapter)
        engine.generate([[7, 8, 9]], SamplingParams(max_tokens=2), adapter="a")
        slots = engine.scheduler.slots
        [slab] = slots._store._slabs.values()
        weights = [weakref.ref(stack) for stack in slab.stacks.values()]
        assert all(ref() is not None for ref in weights)
        del slab
        slots.clear()
        gc.collect()
        assert not any(ref() for ref in weights)
