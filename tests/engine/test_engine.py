"""Decoding behaviour: stops, sampling, streaming, limits, failing steps, closing."""

import pytest

from alorakit.engine.errors import StepError
from alorakit.engine.request import SamplingParams

from .test_parity import prompt_with

PROMPT = prompt_with(1, 0, 30)


def greedy(**kwargs):
    return SamplingParams(ignore_eos=True, **kwargs)


def test_stop_string_cuts_text_and_ids(tiny_engine):
    engine = tiny_engine()
    (free,) = engine.generate(PROMPT, greedy(max_tokens=20))
    stop = free.text[6:9]
    (cut,) = engine.generate(PROMPT, greedy(max_tokens=20, stop=stop))
    assert cut.text == free.text[: free.text.index(stop)]
    assert cut.finish_reason == "stop"
    assert cut.token_ids == free.token_ids[: len(cut.token_ids)]
    assert cut.text.startswith(engine.tokenizer.decode(cut.token_ids).rstrip("�"))
    assert len(engine.tokenizer.decode(free.token_ids[: len(cut.token_ids) + 1])) > len(cut.text)


def test_stop_token_is_in_the_ids_and_not_in_the_text(tiny_engine):
    engine = tiny_engine()
    (free,) = engine.generate(PROMPT, greedy(max_tokens=12))
    stop = free.token_ids[5]
    first = free.token_ids.index(stop)
    (cut,) = engine.generate(PROMPT, greedy(max_tokens=12, stop_token_ids=[stop]))
    assert cut.token_ids == free.token_ids[: first + 1]
    assert cut.text == engine.tokenizer.decode(free.token_ids[:first])
    (longer,) = engine.generate(PROMPT, greedy(max_tokens=12, stop_token_ids=[stop], min_tokens=first + 2))
    assert len(longer.token_ids) >= first + 2
    assert stop not in longer.token_ids[: first + 2]


def test_stream_equals_generate(tiny_engine):
    engine = tiny_engine()
    for params in (greedy(max_tokens=20), greedy(max_tokens=20, stop="zzz"), greedy(max_tokens=20, logprobs=2)):
        (whole,) = engine.generate(PROMPT, params)
        chunks = list(engine.stream(PROMPT, params))
        assert "".join(c.text for c in chunks) == whole.text
        assert [t for c in chunks for t in c.token_ids] == whole.token_ids
        assert chunks[-1].finish_reason == whole.finish_reason
        assert chunks[-1].output.logprobs == whole.logprobs


def test_leaving_a_stream_frees_what_it_held(tiny_engine):
    engine = tiny_engine()
    stream = engine.stream(PROMPT, greedy(max_tokens=50))
    next(stream)
    stream.close()
    engine.check_integrity()
    assert engine.stats().running == engine.stats().waiting == 0


def test_generate_inside_a_stream(tiny_engine):
    engine = tiny_engine()
    (whole,) = engine.generate(PROMPT, greedy(max_tokens=10))
    text = ""
    for chunk in engine.stream(PROMPT, greedy(max_tokens=10)):
        text += chunk.text
        engine.generate(prompt_with(2, 0, 12), greedy(max_tokens=3))
    assert text == whole.text


def test_seeds_reproduce_whatever_else_runs(tiny_engine):
    engine = tiny_engine()
    params = SamplingParams(max_tokens=12, temperature=1.5, seed=11, top_p=0.95, top_k=80, min_p=0.001, ignore_eos=True)
    (alone,) = engine.generate(PROMPT, params)
    crowd = engine.generate([prompt_with(2, 0), PROMPT, prompt_with(3, 0)], params)
    assert crowd[1].token_ids == alone.token_ids
    other = SamplingParams(max_tokens=12, temperature=1.5, seed=12, ignore_eos=True)
    assert engine.generate(PROMPT, other)[0].token_ids != alone.token_ids


def test_n_samples_are_consecutive_and_differ(tiny_engine):
    engine = tiny_engine()
    params = SamplingParams(max_tokens=8, temperature=1.5, seed=3, n=3, ignore_eos=True)
    outputs = engine.generate([PROMPT, prompt_with(2, 0)], params)
    assert [(o.prompt_index, o.sample_index) for o in outputs] == [(i, j) for i in (0, 1) for j in range(3)]
    assert len({tuple(o.token_ids) for o in outputs[:3]}) == 3


def test_top_k_one_and_tiny_top_p_are_greedy(tiny_engine):
    engine = tiny_engine()
    (want,) = engine.generate(PROMPT, greedy(max_tokens=8))
    for kwargs in ({"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}):
        assert engine.generate(PROMPT, greedy(max_tokens=8, temperature=1.0, **kwargs))[0].token_ids == want.token_ids


def test_penalties_forbid_repeats(tiny_engine):
    engine = tiny_engine()
    (output,) = engine.generate(PROMPT, greedy(max_tokens=30, presence_penalty=10.0, frequency_penalty=10.0))
    assert len(set(output.token_ids)) == 30
    (other,) = engine.generate(PROMPT, greedy(max_tokens=30, repetition_penalty=100.0))
    assert len(set(other.token_ids)) == 30


def test_length_limits(tiny_engine):
    engine = tiny_engine(max_model_len=64)
    (output,) = engine.generate(PROMPT, greedy(max_tokens=500))
    assert (output.finish_reason, len(output.token_ids)) == ("length", 64 - len(PROMPT))
    small = tiny_engine(cache_blocks=3)
    (output,) = small.generate(PROMPT, greedy(max_tokens=500))
    assert (output.finish_reason, len(output.token_ids)) == ("length", 48 - len(PROMPT))


def test_preemption_when_the_cache_is_full(tiny_engine):
    prompts = [prompt_with(seed, 0, 20) for seed in range(6)]
    params = greedy(max_tokens=40)
    want = [tiny_engine().generate(p, params)[0].token_ids for p in prompts]
    engine = tiny_engine(cache_blocks=11)
    assert [o.token_ids for o in engine.generate(prompts, params)] == want
    assert engine.stats().preemptions > 0


def test_scores_split_over_passes_are_the_same(tiny_engine):
    candidates = [f"label number {i}" for i in range(12)]
    wide = tiny_engine().score(PROMPT, candidates)
    narrow = tiny_engine(max_num_batched_tokens=20).score(PROMPT, candidates)
    assert [s.logprob for s in narrow] == pytest.approx([s.logprob for s in wide], abs=1e-3)


def test_an_error_in_a_step_frees_the_requests_it_hit(tiny_engine, monkeypatch):
    engine = tiny_engine()
    monkeypatch.setattr(engine._runner, "run", lambda batch: 1 / 0)
    with pytest.raises(StepError, match="ZeroDivisionError") as caught:
        engine.generate(PROMPT)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    engine.check_integrity()
    monkeypatch.undo()
    assert len(engine.generate(PROMPT, greedy(max_tokens=4))[0].token_ids) == 4


def test_an_interrupted_step_leaves_no_uncopied_rows_in_the_cache(tiny_engine, monkeypatch):
    engine, clean = tiny_engine(block_size=4, cache_blocks=4), tiny_engine()
    params = greedy(max_tokens=1)
    engine.generate(list(range(200, 213)), params)
    engine.generate([50, 60, 70], params)  # its tail is cached: the next request plans to copy it …
    monkeypatch.setattr(engine._runner, "run", lambda batch: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):  # … and the one after it evicts the copy's source
        engine.generate([[50, 60, 70, 9], list(range(100, 112))], params)
    monkeypatch.undo()
    engine.check_integrity()
    (again,) = engine.generate([50, 60, 70, 9], greedy(max_tokens=6))
    assert again.token_ids == clean.generate([50, 60, 70, 9], greedy(max_tokens=6))[0].token_ids


def test_values_that_are_not_finite_end_their_request_and_nobody_elses(tiny_engine, tiny_models, make_adapter):
    from safetensors.torch import load_file, save_file

    from alorakit.engine.errors import AdapterError, NumericsError

    path = make_adapter(tiny_models["llama"])
    file = path / "adapter_model.safetensors"
    tensors = load_file(file)
    engine, clean = tiny_engine(), tiny_engine()
    prompt = prompt_with(1, 1)
    save_file({k: v * 1e30 for k, v in tensors.items()}, file)  # finite, but overflows in the model
    engine.add_adapter("overflows", path)
    for call in (
        lambda: engine.generate([prompt, prompt], adapter=["overflows", None]),
        lambda: engine.score(prompt, ["a", "b"], adapter="overflows"),
        lambda: list(engine.stream(prompt, adapter="overflows")),
    ):
        with pytest.raises(NumericsError, match="'overflows' computed values that are not finite"):
            call()
        engine.check_integrity()
    assert engine.generate(prompt)[0].token_ids == clean.generate(prompt)[0].token_ids
    save_file({k: v * float("nan") for k, v in tensors.items()}, file)
    with pytest.raises(AdapterError, match="not finite"):
        engine.add_adapter("nan", path)


def test_streamed_ids_are_never_taken_back(tiny_engine):
    engine = tiny_engine()
    (free,) = engine.generate(PROMPT, greedy(max_tokens=20))
    for start in range(4, 12):
        params = greedy(max_tokens=20, stop=free.text[start : start + 7])
        chunks = list(engine.stream(PROMPT, params))
        assert [t for c in chunks for t in c.token_ids] == engine.generate(PROMPT, params)[0].token_ids
        assert "".join(c.text for c in chunks) == free.text[: free.text.index(params.stops[0])]


@pytest.mark.parametrize("kwargs", [{"temperature": 1e-6}, {"temperature": 2e-5, "min_tokens": 2}, {"top_p": 1e-300}])
def test_extreme_sampling_is_greedy_not_garbage(tiny_engine, kwargs):
    engine = tiny_engine()
    params = greedy(max_tokens=6, **({"temperature": 1.0} | kwargs))
    assert engine.generate(PROMPT, params)[0].token_ids == engine.generate(PROMPT, greedy(max_tokens=6))[0].token_ids


def test_a_closed_engine_says_so(tiny_models):
    from alorakit import Engine
    from alorakit.engine.errors import ClosedError

    engine = Engine.from_pretrained(tiny_models["llama"], dtype="float32", device="cpu", cache_blocks=8)
    engine.close()
    engine.close()
    for call in (lambda: engine.generate([5]), lambda: engine.score([5], ["a"]), lambda: engine.stream([5])):
        with pytest.raises(ClosedError, match="closed"):
            call()


def test_many_candidates_on_a_small_cache(tiny_engine):
    candidates = [f"label {i}" for i in range(200)]
    small = tiny_engine(block_size=4, cache_blocks=16).score(PROMPT, candidates)
    want = tiny_engine().score(PROMPT, candidates)
    assert [s.logprob for s in small] == pytest.approx([s.logprob for s in want], abs=1e-3)


def test_none_means_no_stops_and_numpy_ids_are_ids(tiny_engine):
    import numpy as np

    engine = tiny_engine()
    (want,) = engine.generate(PROMPT, greedy(max_tokens=3))
    params = greedy(max_tokens=3, stop=None, stop_token_ids=None)
    assert engine.generate(list(np.array(PROMPT)), params)[0].token_ids == want.token_ids
