"""Many callers at once: one batch, no state of one in another, nothing left behind."""

import asyncio
import threading

import pytest
from mellea import MelleaSession
from mellea.core import ModelOutputThunk
from mellea.stdlib import functional as mfuncs
from mellea.stdlib.components import Message
from mellea.stdlib.context import ChatContext
from mellea.stdlib.requirements import LLMaJRequirement, req

from alorakit.engine.engine import Engine
from tests.bindings.mellea.conftest import LABELS

# The first to come begins a step of its own; one step reads for the others what they have in common, one the rest.
STEPS = 3
CHECK = "It must not be 'no_failure'."


@pytest.fixture
def session(new_backend, new_labels):
    backend = new_backend(model_options={"max_tokens": 12, "ignore_eos": True}, max_num_batched_tokens=4096)
    backend.add_adapter(new_labels("asked", requirements=True))
    session = MelleaSession(backend, ctx=ChatContext())
    session.chat("The pump leaks, and the technician is away until Monday.")
    return session


@pytest.fixture
def hold(monkeypatch):
    """Let the engine's next step wait until so many requests have come, so that steps can be counted on any machine."""

    def until(backend, num):
        stepper, loop, come = backend._serving._stepper, backend.engine.loop, threading.Event()
        submit, run, left = stepper.submit, loop._run, [num]

        def counted(ticket):
            submit(ticket)
            left[0] -= 1
            if left[0] == 0:
                come.set()

        def held(batch):
            assert come.wait(60)
            return run(batch)

        monkeypatch.setattr(stepper, "submit", counted)
        monkeypatch.setattr(loop, "_run", held)

    return until


def requirements():
    return [req(f"Point {i}. It must not be '{LABELS[i % 3]}'.") for i in range(32)]


def test_one_call_checks_32_requirements_in_one_batch(session, hold):
    engine = session.backend.engine
    hold(session.backend, 32)
    before = engine.stats()
    verdicts = session.validate(requirements())
    after = engine.stats()
    assert len(verdicts) == 32 and after.requests - before.requests == 32
    assert after.steps - before.steps <= STEPS and after.tokens_decoded == before.tokens_decoded


def test_32_concurrent_calls_over_one_context_run_in_one_batch(session, hold):
    engine = session.backend.engine
    hold(session.backend, 32)
    context = session.ctx

    async def run():
        return await asyncio.gather(*(mfuncs.avalidate(r, context, session.backend) for r in requirements()))

    before = engine.stats()
    verdicts = [verdict for [verdict] in asyncio.run(run())]
    after = engine.stats()
    assert after.steps - before.steps <= STEPS
    alone = [session.validate(r)[0] for r in requirements()]
    assert [bool(v) for v in verdicts] == [bool(v) for v in alone]


def test_32_concurrent_calls_over_32_outputs_run_in_one_batch(session, hold):
    engine = session.backend.engine
    hold(session.backend, 32)
    outputs = [ModelOutputThunk(f"Note {i}: pump number {i * 7} is hot.") for i in range(32)]

    async def run():
        checks = (mfuncs.avalidate(req(CHECK), session.ctx, session.backend, output=o) for o in outputs)
        return await asyncio.gather(*checks)

    before = engine.stats()
    verdicts = [verdict for [verdict] in asyncio.run(run())]
    after = engine.stats()
    assert after.steps - before.steps <= STEPS
    labels = [v.thunk._meta["alorakit"]["probabilities"] for v in verdicts]
    alone = [session.validate(req(CHECK), output=o)[0].thunk._meta["alorakit"]["probabilities"] for o in outputs]
    for mine, lone in zip(labels, alone, strict=True):
        assert mine == pytest.approx(lone, abs=1e-4)


def test_32_judges_decode_together(session, hold):
    engine = session.backend.engine
    hold(session.backend, 32)

    async def run():
        judges = [LLMaJRequirement(f"It is short, point {i}.") for i in range(32)]
        return await asyncio.gather(*(mfuncs.avalidate(r, session.ctx, session.backend) for r in judges))

    before = engine.stats()
    asyncio.run(run())
    after = engine.stats()
    assert after.tokens_decoded - before.tokens_decoded == 32 * 12
    assert after.steps - before.steps <= STEPS + 11  # a prompt's step gives the first of twelve tokens


def test_the_sync_api_from_16_threads(session):
    backend, answers, errors = session.backend, {}, []

    def work(index):
        try:
            mine = MelleaSession(backend, ctx=ChatContext())
            first = mine.chat(f"Question {index}?").content
            answers[index] = (first, mine.chat("And then?").content, bool(mine.validate(req(CHECK))[0]))
        except BaseException as exc:
            errors.append(exc)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors and len(answers) == 16
    together = dict(answers)
    for index in range(16):
        work(index)
    assert answers == together


def test_event_loops_of_several_threads(session):
    backend, results, errors = session.backend, {}, []

    def work(index):
        async def run():
            thunk, context = await mfuncs.aact(
                Message("user", f"Question {index}?"), ChatContext(), backend, strategy=None
            )
            await thunk.avalue()
            [verdict] = await mfuncs.avalidate(req(CHECK), context, backend)
            return thunk.value, bool(verdict)

        try:
            results[index] = asyncio.run(run())
        except BaseException as exc:
            errors.append(exc)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors and len(results) == 8


def crowd(new_backend, labels, new_labels, num_sessions, num_turns):
    """Sessions that chat and check at once, while adapters come and go; each says what it says alone."""
    backend = new_backend(model_options={"max_tokens": 6}, cache_blocks=2048)
    backend.add_adapter(labels)
    spare = [new_labels(f"spare{i}", ("red", "blue"), seed=20 + i) for i in range(3)]
    thunks, stop = [], threading.Event()

    async def talk(index):
        context, said = ChatContext(), []
        for turn in range(num_turns):
            action = Message("user", f"S{index} T{turn}")
            thunk, context = await mfuncs.aact(action, context, backend, strategy=None, await_result=True)
            thunks.append(thunk)
            said.append(thunk.value)
            if turn % 4 == index % 4:
                [verdict] = await mfuncs.avalidate(req(CHECK), context, backend)
                thunks.append(verdict.thunk)
                said.append(verdict.thunk._meta["alorakit"]["label"])
        return said

    def churn():
        turns = 0
        while not stop.is_set():
            folder = spare[turns % 3]
            backend.add_adapter(folder)
            backend.unload_peft_adapter(f"{folder.name}_alora")
            backend.remove_adapter(f"{folder.name}_alora")
            turns += 1
            stop.wait(0.01)

    async def together():
        return await asyncio.gather(*(talk(i) for i in range(num_sessions)))

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        said = asyncio.run(asyncio.wait_for(together(), 1500))
    finally:
        stop.set()
        thread.join()
    assert all(thunk.is_computed() for thunk in thunks)
    assert backend.list_adapters() == ["my_adapter_alora"]
    for index in (0, num_sessions // 2, num_sessions - 1):
        assert asyncio.run(talk(index)) == said[index]


def test_a_small_crowd(new_backend, labels, new_labels):
    crowd(new_backend, labels, new_labels, num_sessions=12, num_turns=4)


@pytest.mark.slow
def test_64_sessions_of_20_turns(new_backend, labels, new_labels):
    crowd(new_backend, labels, new_labels, num_sessions=64, num_turns=20)


def test_two_backends_share_one_async_engine(base, new_backend, labels):
    from alorakit.engine.async_engine import AsyncEngine

    serving = AsyncEngine(Engine.from_pretrained(base, dtype="float32", block_size=16))
    one, two = (new_backend(engine=serving, model_options={"max_tokens": 4}) for _ in range(2))
    one.add_adapter(labels)
    session = MelleaSession(two, ctx=ChatContext())
    session.chat("Hello.")
    assert two.list_adapters() == []
    one.close()
    session.chat("Still there?")
    two.close()
    asyncio.run(serving.close())


def test_an_engine_that_was_given_is_open_and_free_after_close(base, new_backend):
    engine = Engine.from_pretrained(base, dtype="float32", block_size=16)
    backend = new_backend(engine=engine, model_options={"max_tokens": 4})
    said = MelleaSession(backend, ctx=ChatContext()).chat("Hello.").content
    backend.close()
    backend.close()
    assert not any(t.name == "alorakit-step" and t is backend._serving._stepper._thread for t in threading.enumerate())
    again = new_backend(engine=engine, model_options={"max_tokens": 4})
    assert MelleaSession(again, ctx=ChatContext()).chat("Hello.").content == said
    again.close()
    engine.close()
