"""One thread steps an engine, whoever serves it, lets it go or closes it meanwhile."""

import asyncio
import threading
from contextlib import suppress

import pytest

from alorakit.engine.async_engine import AsyncEngine
from alorakit.engine.errors import ConfigError

from .test_async_engine import PROMPT, greedy


def test_a_second_server_is_refused(tiny_engine):
    async def main():
        engine = tiny_engine()
        served = AsyncEngine(engine)
        with pytest.raises(ConfigError, match="another AsyncEngine serves this engine"):
            AsyncEngine(engine)
        [output] = await served.generate([PROMPT], greedy(4))
        assert len(output.token_ids) == 4
        await served.close()

    asyncio.run(main())


def test_the_next_server_waits_for_the_step_of_the_one_before(tiny_engine):
    engine = tiny_engine()
    step, stepping = engine.loop.advance, []

    def slow():
        stepping.append(threading.current_thread())
        assert len(set(stepping)) == 1
        try:
            return step()
        finally:
            stepping.clear()

    engine.loop.advance = slow

    async def main():
        for _ in range(10):
            served = AsyncEngine(engine)
            long = asyncio.create_task(served.generate([PROMPT], greedy(300)))
            short = asyncio.create_task(served.generate([PROMPT], greedy(2)))
            await short
            served.detach(wait=False)
            after = AsyncEngine(engine)
            [output] = await after.generate([PROMPT], greedy(3))
            assert (output.finish_reason, len(output.token_ids)) == ("length", 3)
            assert (await long)[0].finish_reason == "abort"
            after.detach()

    asyncio.run(main())
    assert engine.loop.stepper is None
    engine.check_integrity()


def test_closing_the_engine_ends_what_a_server_runs(tiny_engine):
    engine = tiny_engine()

    async def main():
        served = AsyncEngine(engine)
        long = asyncio.create_task(served.generate([PROMPT], greedy(400)))
        async for _ in served.stream(PROMPT, greedy(2)):
            pass
        await asyncio.to_thread(engine.close)
        [output] = await asyncio.wait_for(long, 20)
        assert output.finish_reason == "abort"
        await served.close()

    asyncio.run(main())


def test_closing_a_server_whose_thread_is_about_to_end(tiny_engine):
    """The thread resolves the waiters, and only then ends: whoever comes in between must not wait for ever."""
    engine = tiny_engine()
    served = AsyncEngine(engine)
    thread = served._stepper._thread
    served.detach()
    thread.is_alive = lambda: True  # as in the moment after the waiters were resolved

    async def main():
        await asyncio.wait_for(served.close(), 20)

    asyncio.run(main())


def test_a_loaded_adapter_whose_event_loop_is_closed_is_no_traceback(tiny_engine, monkeypatch):
    engine, go, seen = tiny_engine(), threading.Event(), []
    monkeypatch.setattr(threading, "excepthook", seen.append)
    monkeypatch.setattr(engine, "add_adapter", lambda *arguments: go.wait(20))
    served = AsyncEngine(engine)

    async def main():
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(served.add_adapter("a", "folder"), 0.01)

    asyncio.run(main())
    [loader] = served._loaders
    go.set()
    loader.join()
    served.detach()
    assert seen == []
