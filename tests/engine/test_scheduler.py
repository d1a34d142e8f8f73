"""Who goes first, who waits, who is put back; and that what is shared is computed once."""

import pytest

from alorakit.engine.errors import AlorakitError, RequestError, RequestNotFoundError
from alorakit.engine.request import SamplingParams

from .conftest import ALL_SEVEN, INVOCATION
from .test_parity import prompt_with


def greedy(num=8, **kwargs):
    return SamplingParams(max_tokens=num, ignore_eos=True, **kwargs)


def run(engine):
    """Step until nothing is left; outputs in the order in which they ended."""
    outputs = []
    while engine.has_unfinished:
        outputs += engine.step()
        engine.check_integrity()
    return outputs


def order(engine):
    return [output.request_id for output in run(engine)]


def test_first_come_first_served_within_a_priority_and_lower_priorities_first(tiny_engine):
    engine = tiny_engine(max_num_seqs=1)
    ids = [
        engine.add_request(prompt_with(seed, 0, 20), greedy(3), None, priority)
        for seed, priority in enumerate([1, 0, 1, -2, 0])
    ]
    assert order(engine) == [ids[i] for i in (3, 1, 4, 0, 2)]


def test_an_urgent_request_takes_the_place_of_a_patient_one(tiny_engine):
    engine = tiny_engine(max_num_seqs=1)
    patient = engine.add_request(prompt_with(1, 0, 20), greedy(12), None, 5)
    for _ in range(4):
        assert engine.step() == []
    urgent = engine.add_request(prompt_with(2, 0, 20), greedy(3), None, -5)
    outputs = run(engine)
    assert [o.request_id for o in outputs] == [urgent, patient]
    assert engine.stats().preemptions == 1
    assert outputs[1].token_ids == tiny_engine().generate(prompt_with(1, 0, 20), greedy(12))[0].token_ids


def test_no_stream_of_urgent_requests_starves_a_patient_one(tiny_engine, monkeypatch):
    monkeypatch.setattr("alorakit.engine.scheduler.STEPS_PER_PRIORITY", 8)
    engine = tiny_engine(max_num_seqs=1)
    patient = engine.add_request(prompt_with(1, 0, 20), greedy(2), None, 1)
    ended = []
    for seed in range(40):
        engine.add_request(prompt_with(seed + 2, 0, 12), greedy(1), None, 0)
        ended += [o.request_id for o in engine.step()]
    assert patient in ended


def test_a_large_request_is_not_overtaken_for_ever_by_small_ones(tiny_engine):
    engine = tiny_engine(cache_blocks=8, max_num_batched_tokens=32)
    small = [engine.add_request(prompt_with(seed, 0, 20), greedy(20)) for seed in range(3)]
    large = engine.add_request(prompt_with(9, 0, 100), greedy(2))
    later = [engine.add_request(prompt_with(20 + seed, 0, 20), greedy(1)) for seed in range(6)]
    ended = order(engine)
    assert set(ended) == {*small, large, *later}
    assert ended.index(large) < min(ended.index(i) for i in later)


def test_streams_go_on_while_a_long_prompt_is_read(tiny_engine):
    engine = tiny_engine(max_num_batched_tokens=16)
    stream = engine.stream(prompt_with(1, 0, 10), greedy(30))
    next(stream)
    engine.add_request(prompt_with(2, 0, 200), greedy(1))
    before = engine.stats()
    for _ in range(5):
        next(stream)
    # Each step carried one row of the stream, and as much of the prompt as fitted beside it.
    after = engine.stats()
    assert after.steps - before.steps >= 5
    assert after.tokens_computed - before.tokens_computed == 16 * (after.steps - before.steps)
    assert len(list(stream)) > 0
    run(engine)


@pytest.mark.parametrize("length", [128, 137, 143])
@pytest.mark.parametrize("config", [{}, {"max_num_batched_tokens": 48}, {"block_size": 64}], ids=str)
def test_eight_aloras_that_arrive_together_compute_their_context_once(
    length, config, tiny_engine, tiny_models, make_adapter
):
    engine, cold = tiny_engine(**config), tiny_engine()
    names = [f"a{i}" for i in range(8)]
    for i, name in enumerate(names):
        path = make_adapter(tiny_models["llama"], seed=i, rank=2 + i, targets=ALL_SEVEN if i % 2 else ["q_proj"])
        engine.add_adapter(name, path)
        cold.add_adapter(name, path)
    context = prompt_with(1, 0, length)
    prompts = [[*context, 30 + i, 31, *INVOCATION] for i in range(8)]
    outputs = engine.generate(prompts, greedy(4), names)
    size = engine.config.block_size
    assert engine.stats().tokens_computed <= length + 8 * (5 + 4) + size
    for name, prompt, output in zip(names, prompts, outputs, strict=True):
        assert output.token_ids == cold.generate(prompt, greedy(4), name)[0].token_ids
    assert sum(o.usage.cached_tokens for o in outputs) >= 7 * length - size


def test_a_lora_and_an_alora_on_one_context_never_share(tiny_engine, tiny_models, make_adapter):
    engine = tiny_engine()
    engine.add_adapter("alora", make_adapter(tiny_models["llama"], seed=1))
    engine.add_adapter("lora", make_adapter(tiny_models["llama"], seed=2, invocation=None))
    prompt = [*prompt_with(1, 0, 60), *INVOCATION]
    outputs = engine.generate([prompt] * 2, greedy(4), ["alora", "lora"])
    assert [o.usage.cached_tokens for o in outputs] == [0, 0]
    assert engine.stats().tokens_computed == 2 * (len(prompt) + 3)


def test_samples_share_their_prompt_down_to_the_token(tiny_engine):
    engine = tiny_engine()
    prompt = prompt_with(1, 0, 61)
    outputs = engine.generate(prompt, greedy(1, temperature=1.0, seed=1, n=5))
    assert [o.usage.cached_tokens for o in outputs] == [0] + [60] * 4
    assert engine.stats().tokens_computed == 61 + 4


def test_hits_are_counted_by_whose_request_computed_them(tiny_engine, tiny_models, make_adapter):
    engine = tiny_engine()
    for name, seed in (("a", 1), ("b", 2)):
        engine.add_adapter(name, make_adapter(tiny_models["llama"], seed=seed))
    prompt = [*prompt_with(1, 0, 45), *INVOCATION, 9]
    engine.generate(prompt, greedy(1), "a")
    engine.generate(prompt, greedy(1), "a")
    engine.generate(prompt, greedy(1), "b")
    base = prompt_with(2, 0, 33)
    engine.generate(base, greedy(1))
    engine.generate([*base, 7], greedy(1))
    assert engine.stats().hit_tokens == {"own": len(prompt) - 1, "other": 45, "base": 33}


def test_preempted_sequences_keep_their_turn(tiny_engine):
    prompts = [prompt_with(seed, 0, 20) for seed in range(6)]
    engine = tiny_engine(cache_blocks=11)
    ids = [engine.add_request(prompt, greedy(40)) for prompt in prompts]
    assert order(engine) == ids
    assert engine.stats().preemptions > 0


def test_abort_at_any_moment_frees_the_blocks_at_once(tiny_engine):
    engine = tiny_engine(max_num_seqs=2)
    ids = [engine.add_request(prompt_with(seed, 0, 30), greedy(9, n=2)) for seed in range(3)]
    engine.step()
    live = engine.stats().blocks_total - engine.stats().blocks_free - engine.stats().blocks_cached
    engine.abort(ids[0])
    engine.check_integrity()
    assert engine.stats().blocks_total - engine.stats().blocks_free - engine.stats().blocks_cached < live
    engine.abort(ids[2])
    outputs = run(engine)
    reasons = {i: [o.finish_reason for o in outputs if o.request_id == i] for i in ids}
    assert reasons == {ids[0]: ["abort"] * 2, ids[1]: ["length"] * 2, ids[2]: ["abort"] * 2}
    with pytest.raises(RequestNotFoundError, match="no unfinished request"):
        engine.abort(ids[0])


def test_a_failed_step_ends_its_requests_with_the_cause_and_the_rest_goes_on(tiny_engine, monkeypatch):
    engine = tiny_engine(max_num_seqs=1)
    bad, good = (engine.add_request(prompt_with(seed, 0, 20), greedy(3)) for seed in (1, 2))
    monkeypatch.setattr(engine._runner, "run", lambda batch: 1 / 0)
    [output] = engine.step()
    monkeypatch.undo()
    assert (output.request_id, output.finish_reason) == (bad, "error")
    assert isinstance(output.error.__cause__, ZeroDivisionError)
    [output] = run(engine)
    assert (output.request_id, output.finish_reason) == (good, "length")


def test_close_hands_out_what_was_not_answered(tiny_engine):
    engine = tiny_engine()
    request = engine.add_request(prompt_with(1, 0, 20), greedy(30))
    engine.step()
    engine.close()
    [output] = engine.step()
    assert (output.request_id, output.finish_reason) == (request, "abort")
    with pytest.raises(RuntimeError, match="closed"):
        engine.step()


@pytest.mark.parametrize("priority", [1.5, True, "high", None, 10**6])
def test_a_bad_priority_is_refused(priority, tiny_engine):
    with pytest.raises(RequestError, match="priority="):
        tiny_engine().add_request([1, 2, 3], priority=priority)


def test_a_step_with_nothing_to_do_does_nothing(tiny_engine):
    engine = tiny_engine()
    assert engine.step() == []
    assert engine.stats().tokens_computed == 0


def test_scores_and_urgent_requests_do_not_wait_for_decoders_that_take_every_row(tiny_engine):
    engine = tiny_engine(max_num_batched_tokens=32)
    slow = [engine.add_request(prompt_with(seed, 0, 8), greedy(300)) for seed in range(18)]
    for _ in range(5):
        engine.step()
    candidates = [f"label number {i}" for i in range(30)]
    want = tiny_engine().score([11, 12, 13], candidates)
    before = engine.stats().steps
    got = engine.score([11, 12, 13], candidates)
    assert engine.stats().steps - before < 60
    assert [s.logprob for s in got] == pytest.approx([s.logprob for s in want], abs=1e-3)
    urgent = engine.add_request([11, 12, 14], greedy(1), None, -5)
    assert any(o.request_id == urgent for _ in range(4) for o in engine.step())
    for request in slow:
        engine.abort(request)
    run(engine)


def test_one_that_cannot_be_let_in_ends_alone(tiny_engine, tiny_models, make_adapter, monkeypatch):
    engine = tiny_engine(max_adapters=1)
    for name, seed in (("bad", 1), ("good", 2)):
        engine.add_adapter(name, make_adapter(tiny_models["llama"], seed=seed, invocation=None))
    innocent = engine.add_request(prompt_with(1, 0, 20), greedy(6))
    engine.step()
    for owner, method in ((engine.scheduler.slots, "acquire"), (engine.scheduler.blocks, "admit")):
        bad = engine.add_request(prompt_with(2, 0, 20), greedy(3), "bad")
        with monkeypatch.context() as patch:
            patch.setattr(owner, method, lambda *args: 1 / 0)
            [output] = engine.step()
        assert (output.request_id, output.finish_reason) == (bad, "error")
        assert isinstance(output.error.__cause__, ZeroDivisionError)
        engine.check_integrity()
    good = engine.add_request(prompt_with(3, 0, 20), greedy(3), "good")
    assert {o.request_id: o.finish_reason for o in run(engine)} == {innocent: "length", good: "length"}


def test_logits_that_are_not_finite_are_an_error(tiny_engine, monkeypatch):
    engine = tiny_engine()
    logits = engine._runner.model.logits
    monkeypatch.setattr(engine._runner.model, "logits", lambda hidden: logits(hidden) * float("inf"))
    with pytest.raises(ArithmeticError, match="logits"):
        engine.generate(prompt_with(1, 0, 20), greedy(3))
    with pytest.raises(ArithmeticError, match="logits"):
        engine.score(prompt_with(1, 0, 20), ["a", "b"])
    monkeypatch.undo()
    engine.check_integrity()


def test_a_stream_of_a_closed_engine_says_so(tiny_engine):
    engine = tiny_engine()
    stream = engine.stream(prompt_with(1, 0, 20))
    engine.close()
    with pytest.raises(RuntimeError, match="closed"):
        next(stream)


@pytest.mark.parametrize(
    "call",
    [
        lambda e: e.generate([1, 10**5000]),
        lambda e: e.score("a", [10**5000]),
        lambda e: e.score("a", {str(i): 1 for i in range(9999)}),
        lambda e: e.add_request([1], priority=10**5000),
        lambda e: e.score("a", ["b"], end="nope"),
        lambda e: type(e).from_pretrained(e.model_path, device="cpu:99"),
        lambda e: e.abort(10**5000),
        lambda e: e.abort([1]),
        lambda e: e.add_adapter(10**5000, "x"),
        lambda e: SamplingParams(min_tokens=10**5000),
        lambda e: type(e.config)(block_size=10**5000),
        lambda e: type(e.config)(cache_blocks=10**5000),
        lambda e: type(e.config)(revision=3),
        lambda e: type(e).from_pretrained(None),
    ],
)
def test_huge_and_odd_values_get_a_short_typed_error(call, tiny_engine):
    with pytest.raises(AlorakitError) as caught:
        call(tiny_engine())
    assert len(str(caught.value)) < 400
