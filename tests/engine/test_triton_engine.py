"""The engine on Triton's kernels against the engine on torch's: the same ids, whatever is in the batch."""

import gc
import random
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from alorakit import Engine, SamplingParams
from alorakit.engine.errors import StepError
from alorakit.kernels import ops

from .folders import FAMILIES, make_adapter, make_model

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
QKV = ["q_proj", "k_proj", "v_proj"]
ALL_SEVEN = [*QKV, "o_proj", "gate_proj", "up_proj", "down_proj"]
INVOCATION = [301, 17, 302]
# name -> targets, rank, invocation
ADAPTERS = {
    "small": (QKV, 8, INVOCATION),
    "large": (ALL_SEVEN, 33, INVOCATION),
    "lora": (["q_proj", "o_proj", "down_proj"], 4, None),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_dir: Path) -> dict[str, dict[str, Path]]:
    """For each family the model's folder, under "", and its adapters'."""
    root = tmp_path_factory.mktemp("triton")
    found = {}
    for family in FAMILIES:
        model = make_model(root / family, tiny_tokenizer_dir, family)
        found[family] = {"": model} | {
            name: make_adapter(root / f"{family}-{name}", model, targets, rank, invocation, seed)
            for seed, (name, (targets, rank, invocation)) in enumerate(ADAPTERS.items())
        }
    return found


@pytest.fixture
def engines(folders: dict[str, dict[str, Path]]) -> Iterator:
    """Make the engine of a family on both backends, adapters loaded."""
    made: list[Engine] = []

    def make(
        family: str = "llama", adapters: tuple[str, ...] = tuple(ADAPTERS), **config: object
    ) -> tuple[Engine, ...]:
        for backend in ("torch", "triton"):
            ops.use_backend(backend)
            options = {"dtype": "float32", "device": DEVICE, "block_size": 16, "cache_blocks": 128} | config
            engine = Engine.from_pretrained(folders[family][""], **options)
            for name in adapters:
                engine.add_adapter(name, folders[family][name])
            made.append(engine)
        return tuple(made[-2:])

    yield make
    ops.use_backend(None)
    for engine in made:
        engine.check_integrity()
        engine.close()


def prompt(length: int, seed: int, invoked: bool = True) -> list[int]:
    rng = random.Random(seed)
    ids = [rng.randrange(3, 290) for _ in range(length)]
    return [*ids, *INVOCATION, 7, 9] if invoked else ids


def same(engines: tuple[Engine, Engine], prompts: list[list[int]], adapters: list[str | None], tokens: int = 4) -> None:
    """Both engines give the same ids, and log-probabilities within 1e-3."""
    params = SamplingParams(max_tokens=tokens, ignore_eos=True, logprobs=1)
    want, got = (engine.generate(prompts, params, adapters) for engine in engines)
    assert [out.token_ids for out in got] == [out.token_ids for out in want]
    assert [out.usage for out in got] == [out.usage for out in want]
    for ours, theirs in zip(got, want, strict=True):
        for mine, other in zip(ours.logprobs, theirs.logprobs, strict=True):
            assert mine == pytest.approx(other, abs=1e-3)


def test_base_lora_and_two_aloras_in_one_batch(engines):
    same(engines(), [prompt(9 + 5 * i, i) for i in range(5)], ["small", None, "large", "lora", "small"])


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "llama"])
def test_families(engines, family):
    same(engines(family, ("large",)), [prompt(40, 1), prompt(20, 2)], ["large", None], 3)


def test_a_long_prompt_goes_through_the_matrix_library(engines):
    pair = engines(adapters=("large", "lora"))
    same(pair, [prompt(90, 1), prompt(70, 2), prompt(6, 3)], ["large", "lora", None], 2)
    # Now the context is there, and what is left of the prompt is a step of few rows.
    same(pair, [[*prompt(90, 1)[:-2], 11], prompt(90, 1)], ["large", None], 2)


def test_chunks_and_preemption(engines):
    pair = engines(adapters=("small",), max_num_batched_tokens=13, cache_blocks=6)
    same(pair, [prompt(30, 1), prompt(25, 2)], ["small", None], 3)


def test_scores_branches_and_prompt_log_probabilities(engines):
    pair = engines(adapters=("large",))
    scores = [engine.score(prompt(20, 1), ["yes", "no", "maybe not"], adapter="large") for engine in pair]
    assert [s.logprob for s in scores[1]] == pytest.approx([s.logprob for s in scores[0]], abs=1e-3)
    params = SamplingParams(max_tokens=1, prompt_logprobs=0)
    (want,), (got,) = (engine.generate(prompt(8, 2), params) for engine in pair)
    for mine, other in zip(got.prompt_logprobs[1:], want.prompt_logprobs[1:], strict=True):
        assert mine == pytest.approx(other, abs=1e-3)


def test_many_sequences_share_a_prefix(engines):
    context = prompt(40, 1, invoked=False)
    prompts = [[*context, 20 + i, *INVOCATION] for i in range(6)]
    same(engines(adapters=("small", "large")), prompts, ["small", "large", None, "small", "large", None], 2)


def test_adapters_come_and_go_between_steps_of_one_shape(engines, folders):
    pair = engines(adapters=(), max_adapters=1)
    for name in ("small", "large", "small"):
        for engine in pair:
            engine.add_adapter(name, folders["llama"][name], replace=True)
        same(pair, [prompt(12, 1)], [name], 3)


def test_an_adapter_that_computes_nan_fails_alone(engines, folders, tmp_path):
    _, engine = engines(adapters=("small",))
    broken = make_adapter(tmp_path / "broken", folders["llama"][""], QKV, 8, INVOCATION, 5)
    engine.add_adapter("broken", broken)
    adapter = engine._registry.get("broken")
    next(iter(adapter.weights.pairs.values())).b.fill_(float("inf"))
    params = SamplingParams(max_tokens=3, ignore_eos=True)
    want = engine.generate(prompt(12, 1), params, "small")[0].token_ids
    params = replace(params, prompt_logprobs=0)
    requests = [engine.add_request(prompt(12, 1), params, name) for name in ("broken", "small")]
    outputs = {}
    while engine.has_unfinished:
        outputs |= {out.request_id: out for out in engine.step()}
    assert outputs[requests[0]].finish_reason == "error"
    assert "adapter 'broken' computed values that are not finite" in str(outputs[requests[0]].error)
    assert outputs[requests[0]].prompt_logprobs == [None]  # and none that is no number
    assert outputs[requests[1]].token_ids == want


def test_an_empty_step(engines):
    _, engine = engines(adapters=())
    assert engine.step() == []


def test_kernels_are_launched_on_the_models_device(engines, monkeypatch):
    _, engine = engines(adapters=())
    launched, inside = [], []

    @contextmanager
    def current() -> Iterator[None]:
        inside.append(1)
        yield
        inside.pop()

    embed, norm = ops.fused.embed_norm, ops.fused.add_rms_norm
    monkeypatch.setattr(engine._runner, "_current", current)
    monkeypatch.setattr(ops.fused, "embed_norm", lambda *args: launched.append(len(inside)) or embed(*args))
    monkeypatch.setattr(ops.fused, "add_rms_norm", lambda *args: launched.append(len(inside)) or norm(*args))
    for length in (5, 70):
        engine.generate(prompt(length, 1), SamplingParams(max_tokens=1))
    assert len(launched) > 2
    assert set(launched) == {1}


def test_after_a_failed_pass_the_next_one_waits_for_the_device(engines, monkeypatch):
    _, engine = engines(adapters=())
    runner, waits = engine._runner, []
    monkeypatch.setattr(torch.cuda, "synchronize", waits.append)
    with monkeypatch.context() as patch:
        patch.setattr(runner, "_done", runner._done or object())  # as on a GPU
        patch.setattr(runner, "_forward", lambda *args: 1 / 0)
        with pytest.raises(StepError, match="division by zero"):
            engine.generate(prompt(5, 1), SamplingParams(max_tokens=1))
    assert waits == [runner.model.device]


def test_a_closed_engine_keeps_no_room_for_logits(engines):
    _, engine = engines(adapters=())
    engine.generate(prompt(5, 1), SamplingParams(max_tokens=1))
    room = weakref.ref(engine._runner._logits)
    engine.close()
    gc.collect()
    assert room() is None
