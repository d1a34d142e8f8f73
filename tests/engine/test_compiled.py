"""compile=True computes what the engine computes without, and gives way where it cannot be had."""

import logging

import pytest
import torch

from alorakit import EngineConfig, SamplingParams
from alorakit.engine import compiled
from alorakit.engine.errors import ConfigError

from .conftest import ALL_SEVEN, INVOCATION
from .test_parity import prompt_with

GREEDY = SamplingParams(max_tokens=6, ignore_eos=True)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache folder that the tests of this file share, so that each model is compiled once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def cached(cache, monkeypatch):
    monkeypatch.setenv("ALORAKIT_CACHE", str(cache))
    fast_to_compile = compiled.OPTIONS | {"aot_inductor.compile_wrapper_opt_level": "O0"}
    monkeypatch.setattr(compiled, "OPTIONS", fast_to_compile)


@pytest.fixture
def engines(tiny_engine, tiny_models, make_adapter):
    """An engine without and one with compile=True, with a LoRA on all projections and an aLoRA on q, k, v."""

    def make(family: str, **config):
        pair = tiny_engine(family, **config), tiny_engine(family, compile=True, **config)
        lora = make_adapter(tiny_models[family], seed=1, targets=ALL_SEVEN, invocation=None)
        alora = make_adapter(tiny_models[family], seed=2)
        for engine in pair:
            engine.add_adapter("lora", lora)
            engine.add_adapter("alora", alora)
        return pair

    return make


def answers(engine, prompts, adapters) -> list[list[int]]:
    return [out.token_ids for out in engine.generate(prompts, GREEDY, adapter=adapters)]


@pytest.mark.parametrize("family", ["qwen3", "granite"])  # norms of heads; every multiplier
def test_compiled_and_eager_give_the_same_ids(engines, family):
    eager, fast = engines(family, max_num_batched_tokens=64)
    assert fast.stats().compile_seconds > 0 == eager.stats().compile_seconds
    context = prompt_with(4, 0, 90)  # two chunks
    prompts = [context, [*context, *INVOCATION, 9], prompt_with(5, 0, 33), [8]]
    adapters = [None, "alora", "lora", None]
    assert answers(fast, prompts, adapters) == answers(eager, prompts, adapters)
    for prompt, adapter in zip(prompts, adapters, strict=True):  # steps of one row; most of the prompt is cached
        assert answers(fast, prompt, adapter) == answers(eager, prompt, adapter)


@pytest.mark.parametrize("rows", [1, 2, 7, 133])
def test_compiled_layers_agree_with_the_decoder(engines, rows):
    _, fast = engines("qwen3")
    model = fast._runner.model
    ids, positions = torch.arange(rows) + 5, torch.arange(rows) * 3

    def attend(layer, q, k, v):
        return (q + k.mean(1, keepdim=True) * layer + v.mean(1, keepdim=True)).flatten(1)

    def lora(layer, projection, x, out):
        out[1:] += 0.1 * (layer + len(projection)) * x[1:].mean(1, keepdim=True)
        return out

    with torch.inference_mode():
        for applier in (None, lora):
            hidden = model.compiled.forward(ids, positions, attend, applier)
            torch.testing.assert_close(hidden, model.forward(ids, positions, attend, applier), atol=1e-4, rtol=1e-4)


def test_two_engines_do_not_meet_in_one_program(engines, tiny_engine):
    eager, fast = engines("qwen3")
    other = tiny_engine("qwen3", compile=True)
    prompt = prompt_with(4, 0, 40)
    expected = answers(eager, prompt, None)
    assert answers(fast, prompt, "lora") == answers(eager, prompt, "lora") != expected
    assert answers(other, prompt, None) == expected
    other.close()
    assert answers(fast, prompt, None) == expected


def test_a_second_start_compiles_nothing(tiny_engine, monkeypatch, cache):
    tiny_engine("qwen3", compile=True)
    files = set((cache / "compiled").iterdir())
    assert files and all(file.suffix == ".pt2" for file in files)
    monkeypatch.setattr(compiled, "_compile", None)
    engine = tiny_engine("qwen3", compile=True)
    assert engine.stats().compile_seconds > 0
    assert set((cache / "compiled").iterdir()) == files


def test_without_a_compiler_the_engine_works(tiny_engine, monkeypatch, tmp_path, caplog):
    def fail(*args, **kwargs):
        raise RuntimeError("no C++ compiler\nand a long trace")

    monkeypatch.setenv("ALORAKIT_CACHE", str(tmp_path))
    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", fail)
    with caplog.at_level(logging.WARNING, "alorakit"):
        engine = tiny_engine("qwen3", compile=True)
    [record] = caplog.records
    assert record.getMessage().endswith("runs without: no C++ compiler")
    assert engine.stats().compile_seconds == 0
    assert not list((tmp_path / "compiled").iterdir())
    prompt = prompt_with(4, 0, 40)
    assert answers(engine, prompt, None) == answers(tiny_engine("qwen3"), prompt, None)


def test_a_broken_file_in_the_cache_is_made_anew(tiny_engine, cache, monkeypatch, tmp_path, caplog):
    tiny_engine("qwen3", compile=True)
    files = {file.name: file.read_bytes() for file in (cache / "compiled").iterdir()}
    monkeypatch.setenv("ALORAKIT_CACHE", str(tmp_path))
    (tmp_path / "compiled").mkdir()
    for name in files:
        (tmp_path / "compiled" / name).write_bytes(b"not a package")
    monkeypatch.setattr(compiled, "_compile", lambda module, inputs, path: path.write_bytes(files[path.name]))
    assert tiny_engine("qwen3", compile=True).stats().compile_seconds > 0
    assert "is made anew" in caplog.text


@pytest.mark.parametrize("value", [1, None, "yes"])
def test_compile_is_true_or_false(value):
    with pytest.raises(ConfigError, match="compile="):
        EngineConfig(compile=value)
