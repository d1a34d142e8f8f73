"""Concurrent callers: answers equal the engine's, cancelling frees, nothing is lost, nothing is left behind."""

import asyncio
import threading

import pytest

from alorakit.engine.async_engine import AsyncEngine
from alorakit.engine.errors import ClosedError, ConfigError, EngineBusyError, RequestError, StepError
from alorakit.engine.request import SamplingParams

from .conftest import INVOCATION
from .test_parity import prompt_with

PROMPT = prompt_with(1, 0, 30)


def greedy(num=8, **kwargs):
    return SamplingParams(max_tokens=num, ignore_eos=True, **kwargs)


@pytest.fixture
def serve(tiny_engine):
    """Run a coroutine function with an AsyncEngine; afterwards every block is free or cached and the thread gone."""

    def run(test, **config):
        engine = tiny_engine(**config)

        async def main():
            async with AsyncEngine(engine) as served:
                result = await asyncio.wait_for(test(served), 60)
                await served.drain()
                served.check_integrity()
                stats = served.stats()
                assert (stats.running, stats.waiting) == (0, 0)
                assert stats.blocks_free + stats.blocks_cached == stats.blocks_total
                return result

        result = asyncio.run(main())
        assert not [t for t in threading.enumerate() if t.name in ("alorakit-step", "alorakit-load")]
        return result

    return run


def test_concurrent_answers_equal_the_engines(serve, tiny_engine, tiny_models, make_adapter):
    path = make_adapter(tiny_models["llama"])
    plain = tiny_engine()
    plain.add_adapter("a", path)
    prompts = [[*prompt_with(seed, 0, 20 + seed), *INVOCATION] for seed in range(12)]
    want = [plain.generate(p, greedy(), "a" if i % 2 else None)[0].token_ids for i, p in enumerate(prompts)]
    scored = plain.score(prompts[0], ["yes", "no"], "a")

    async def test(engine):
        await engine.add_adapter("a", path)
        calls = [engine.generate(p, greedy(), "a" if i % 2 else None) for i, p in enumerate(prompts)]
        *outputs, scores = await asyncio.gather(*calls, engine.score(prompts[0], ["yes", "no"], "a"))
        assert [o.token_ids for [o] in outputs] == want
        assert [s.logprob for s in scores] == pytest.approx([s.logprob for s in scored], abs=1e-4)
        both = await engine.generate(prompts[:2], greedy(n=2), [None, "a"])
        assert [(o.prompt_index, o.sample_index) for o in both] == [(0, 0), (0, 1), (1, 0), (1, 1)]

    serve(test)


def test_is_open_until_it_is_closed_or_its_thread_fails(tiny_engine, monkeypatch):
    async def main():
        closed, failed = AsyncEngine(tiny_engine()), AsyncEngine(tiny_engine())
        assert closed.is_open and failed.is_open
        await closed.close()

        def fail():
            raise SystemExit

        monkeypatch.setattr(failed.engine.loop, "advance", fail)
        with pytest.raises(StepError):
            await failed.generate(PROMPT)
        assert not closed.is_open and not failed.is_open
        await failed.close()

    asyncio.run(main())


@pytest.mark.parametrize("how", ["stream", "generate"])
def test_cancelling_the_consumer_frees_its_blocks_within_one_step(how, serve, monkeypatch):
    async def test(engine):
        run, begun, gate = engine._engine._runner.run, threading.Semaphore(0), threading.Semaphore(0)

        def gated(batch):
            begun.release()
            assert gate.acquire(timeout=30)
            return run(batch)

        monkeypatch.setattr(engine._engine._runner, "run", gated)

        async def consume():
            if how == "generate":
                await engine.generate(PROMPT, greedy(400))
            async for _ in engine.stream(PROMPT, greedy(400)):
                pass

        task = asyncio.create_task(consume())
        await asyncio.sleep(0)
        gate.release()
        assert begun.acquire(timeout=30) and begun.acquire(timeout=30)  # the second step is under way
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.release()
        await engine.drain()
        stats = engine.stats()
        assert stats.steps == 2
        assert stats.requests_ended["abort"] == stats.requests == 1
        assert stats.blocks_live == 0

    serve(test)


def test_a_timeout_is_a_cancellation(serve):
    async def test(engine):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(engine.generate(PROMPT, greedy(450)), 0.02)

    serve(test)


def test_a_full_queue_refuses_and_loses_nothing(serve):
    async def test(engine):
        calls = [asyncio.create_task(engine.generate(prompt_with(i, 0, 20), greedy(3))) for i in range(12)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        busy = [r for r in results if isinstance(r, EngineBusyError)]
        assert busy and "max_waiting=4" in str(busy[0])
        assert len(busy) + sum(isinstance(r, list) and len(r[0].token_ids) == 3 for r in results) == 12
        with pytest.raises(EngineBusyError):
            await engine.generate([PROMPT] * 5, greedy(1))
        assert len(await engine.generate([PROMPT] * 4, greedy(1))) == 4

    serve(test, max_waiting=4, max_num_seqs=1)


def test_an_error_in_a_step_fails_its_requests_and_the_engine_goes_on(serve, monkeypatch):
    async def test(engine):
        with monkeypatch.context() as patch:
            patch.setattr(engine._engine._runner, "run", lambda batch: 1 / 0)
            with pytest.raises(StepError, match="ZeroDivisionError") as caught:
                await engine.generate(PROMPT, greedy(3))
            assert isinstance(caught.value.__cause__, ZeroDivisionError)
            with pytest.raises(StepError):
                _ = [chunk async for chunk in engine.stream(PROMPT, greedy(3))]
        [output] = await engine.generate(PROMPT, greedy(3))
        assert len(output.token_ids) == 3

    serve(test)


def test_bad_requests_are_refused_at_the_call(serve):
    async def test(engine):
        with pytest.raises(RequestError, match="empty"):
            await engine.generate([[]])
        with pytest.raises(RequestError, match="cannot be streamed as one"):
            engine.stream(PROMPT, greedy(n=2))
        with pytest.raises(KeyError, match="no adapter named"):
            await engine.score(PROMPT, ["a"], "missing")
        with pytest.raises(ValueError, match="no such folder"):
            await engine.add_adapter("x", "nowhere")
        assert await engine.generate([]) == []

    serve(test)


def test_drain_waits_for_every_answer_and_refuses_meanwhile(serve):
    async def test(engine):
        running = asyncio.create_task(engine.generate(PROMPT, greedy(60)))
        await asyncio.sleep(0)
        draining = asyncio.create_task(engine.drain())
        await asyncio.sleep(0)
        with pytest.raises(EngineBusyError, match="draining"):
            await engine.generate(PROMPT, greedy(1))
        await draining
        assert running.done() or len((await running)[0].token_ids) == 60
        assert len((await engine.generate(PROMPT, greedy(1)))[0].token_ids) == 1

    serve(test)


def test_close_ends_every_request_once(tiny_engine):
    async def main():
        engine = AsyncEngine(tiny_engine(max_num_seqs=2))
        tasks = [asyncio.create_task(engine.generate(prompt_with(i, 0, 20), greedy(400))) for i in range(5)]

        async def read():
            return [chunk async for chunk in engine.stream(PROMPT, greedy(400))]

        scoring = asyncio.create_task(engine.score(PROMPT, ["a", "b"]))
        reading = asyncio.create_task(read())
        await asyncio.sleep(0.05)
        await asyncio.gather(engine.close(), engine.close())
        assert [(await task)[0].finish_reason for task in tasks] == ["abort"] * 5
        assert (await reading)[-1].finish_reason == "abort"
        result = (await asyncio.gather(scoring, return_exceptions=True))[0]
        assert isinstance(result, ClosedError) or len(result) == 2
        for call in (engine.generate(PROMPT), engine.drain(), engine.add_adapter("x", "y")):
            with pytest.raises(ClosedError):
                await call
        await engine.close()

    asyncio.run(main())
    assert not [t for t in threading.enumerate() if t.name in ("alorakit-step", "alorakit-load")]


def test_adapters_come_and_go_while_requests_run(serve, tiny_engine, tiny_models, make_adapter):
    old, new = (make_adapter(tiny_models["llama"], seed=seed) for seed in (5, 6))
    prompt = [*prompt_with(3, 0, 40), *INVOCATION]
    plain = tiny_engine()
    want = []
    for path in (old, new):
        plain.add_adapter("a", path, replace=True)
        want.append(plain.generate(prompt, greedy(40), "a")[0].token_ids)

    async def test(engine):
        await engine.add_adapter("a", old)
        stream = engine.stream(prompt, greedy(40), "a")
        chunks = [await anext(stream)]
        await engine.add_adapter("a", new, replace=True)
        [replaced] = await engine.generate(prompt, greedy(40), "a")
        await engine.remove_adapter("a")
        chunks += [chunk async for chunk in stream]
        assert [t for c in chunks for t in c.token_ids] == want[0]
        assert replaced.token_ids == want[1]
        assert engine.adapters == {}

    serve(test)


def test_two_event_loops_one_after_the_other(tiny_engine):
    engine = AsyncEngine(tiny_engine())

    async def once():
        return (await engine.generate(PROMPT, greedy(3)))[0].token_ids

    async def abandon():
        asyncio.get_running_loop().create_task(engine.generate(PROMPT, greedy(400)))
        await asyncio.sleep(0.01)

    assert asyncio.run(once()) == asyncio.run(once())
    asyncio.run(abandon())
    asyncio.run(engine.close())


def test_only_an_open_engine_can_be_served(tiny_engine):
    with pytest.raises(ConfigError, match="is no Engine"):
        AsyncEngine("HuggingFaceTB/SmolLM2-135M-Instruct")
    engine = tiny_engine()
    engine.close()
    with pytest.raises(ClosedError):
        AsyncEngine(engine)
