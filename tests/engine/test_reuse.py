"""Reuse is real (counted) and exact (the same numbers as a cold run)."""

import shutil

import pytest

from alorakit.engine.request import SamplingParams

from .conftest import ALL_SEVEN, INVOCATION
from .test_parity import prompt_with

GREEDY = SamplingParams(max_tokens=12, ignore_eos=True, logprobs=20)


def assert_close(left, right, tolerance=1e-3):
    assert left.token_ids == right.token_ids
    for one, other in zip(left.logprobs, right.logprobs, strict=True):
        assert one == pytest.approx(other, abs=tolerance)


@pytest.fixture
def engines(tiny_engine, tiny_models, make_adapter):
    """A factory of engines that know the same three adapters."""
    base = tiny_models["llama"]
    paths = {
        "one": make_adapter(base, seed=1),
        "two": make_adapter(base, seed=2, targets=ALL_SEVEN),
        "lora": make_adapter(base, seed=3, invocation=None),
    }

    def make(**config):
        engine = tiny_engine("llama", **config)
        for name, path in paths.items():
            engine.add_adapter(name, path)
        return engine

    return make


def test_a_check_after_generation_computes_only_its_own_suffix(engines):
    warm, cold = engines(), engines()
    context = prompt_with(1, 0, 53)
    (answer,) = warm.generate(context, SamplingParams(max_tokens=21, ignore_eos=True))
    asked = context + answer.token_ids
    suffix = [40, 41, 42, *INVOCATION]
    before = warm.stats().tokens_computed
    (check,) = warm.generate(asked + suffix, GREEDY, adapter="one")
    assert check.usage.cached_tokens == len(asked) - 1
    assert warm.stats().tokens_computed - before == 1 + len(suffix) + GREEDY.max_tokens - 1
    (again,) = cold.generate(asked + suffix, GREEDY, adapter="one")
    assert again.usage.cached_tokens == 0
    assert_close(check, again)


def test_an_aloras_prefill_serves_base_and_another_alora_but_a_loras_serves_nobody(engines):
    prompt = [*prompt_with(2, 0, 45), 50, 51, *INVOCATION]
    activation = len(prompt) - len(INVOCATION)
    for reader, expected in ((None, activation), ("two", activation), ("lora", 0)):
        engine, cold = engines(), engines()
        engine.generate(prompt, GREEDY, adapter="one")
        (read,) = engine.generate([*prompt, 9], GREEDY, adapter=reader)
        assert read.usage.cached_tokens == expected
        assert_close(read, cold.generate([*prompt, 9], GREEDY, adapter=reader)[0])
    for reader in (None, "one"):
        engine, cold = engines(), engines()
        engine.generate(prompt, GREEDY, adapter="lora")
        (read,) = engine.generate([*prompt, 9], GREEDY, adapter=reader)
        assert read.usage.cached_tokens == 0
        assert_close(read, cold.generate([*prompt, 9], GREEDY, adapter=reader)[0])
    engine = engines()
    engine.generate(prompt, GREEDY, adapter="lora")
    assert engine.generate(prompt, GREEDY, adapter="lora")[0].usage.cached_tokens == len(prompt) - 1


def test_other_weights_under_the_same_name_never_serve_old_kv(tiny_engine, tiny_models, make_adapter):
    base = tiny_models["llama"]
    old, new = make_adapter(base, seed=5), make_adapter(base, seed=6)
    prompt = [*prompt_with(3, 0, 40), *INVOCATION, 7, 8]
    engine, cold = tiny_engine("llama"), tiny_engine("llama")
    engine.add_adapter("a", old)
    (first,) = engine.generate(prompt, GREEDY, adapter="a")
    engine.add_adapter("a", new, replace=True)
    (second,) = engine.generate(prompt, GREEDY, adapter="a")
    assert second.usage.cached_tokens == len(prompt) - len(INVOCATION) - 2
    cold.add_adapter("other-name", new)
    assert_close(second, cold.generate(prompt, GREEDY, adapter="other-name")[0])
    assert first.token_ids != second.token_ids


def test_the_same_weights_under_another_name_share(tiny_engine, tiny_models, make_adapter, tmp_path):
    path = make_adapter(tiny_models["llama"], seed=5)
    shutil.copytree(path, tmp_path / "copy")
    engine = tiny_engine("llama")
    engine.add_adapter("a", path)
    engine.add_adapter("b", tmp_path / "copy")
    prompt = [*prompt_with(3, 0, 40), *INVOCATION, 7, 8]
    engine.generate(prompt, GREEDY, adapter="a")
    assert engine.generate(prompt, GREEDY, adapter="b")[0].usage.cached_tokens == len(prompt) - 1


def test_requests_that_arrive_together_compute_a_shared_context_once(engines):
    engine = engines()
    context = prompt_with(4, 0, 96)
    prompts = [[*context, 30 + i, *INVOCATION] for i in range(6)]
    outputs = engine.generate(prompts, GREEDY, adapter=["one", "two", "one", None, "two", None])
    engine.check_integrity()
    assert [o.usage.cached_tokens for o in outputs] == [0] + [96] * 5
    cold = engines()
    for prompt, output in zip(prompts, outputs, strict=True):
        assert_close(output, cold.generate(prompt, GREEDY, adapter=output.adapter)[0])


def test_a_running_request_keeps_its_adapter_when_the_name_is_replaced_or_removed(
    tiny_engine, tiny_models, make_adapter
):
    base = tiny_models["llama"]
    old, new = make_adapter(base, seed=5), make_adapter(base, seed=6)
    prompt = [*prompt_with(3, 0, 40), *INVOCATION]
    undisturbed = tiny_engine("llama")
    undisturbed.add_adapter("a", old)
    (want,) = undisturbed.generate(prompt, GREEDY, adapter="a")
    engine = tiny_engine("llama")
    engine.add_adapter("a", old)
    stream = engine.stream(prompt, GREEDY, adapter="a")
    chunks = [next(stream)]
    engine.add_adapter("a", new, replace=True)
    engine.generate(prompt, GREEDY, adapter="a")
    engine.remove_adapter("a")
    chunks += list(stream)
    assert chunks[-1].output.token_ids == want.token_ids
