"""Streams: pieces, cancellation, time limits, errors. A thunk always ends, and the engine is idle soon after."""

import asyncio
import threading
import time

import pytest
from mellea.backends import ModelOption
from mellea.core import CBlock
from mellea.stdlib.context import ChatContext

from alorakit.engine.errors import ClosedError, RequestError, StepError

STREAM = {ModelOption.STREAM: True, "ignore_eos": True}


async def begin(backend, text="Say something.", **options):
    thunk, _ = await backend.generate_from_context(CBlock(text), ChatContext(), model_options={**STREAM, **options})
    return thunk


async def idle(backend):
    """Until the engine has nothing left to do; a step or two."""
    await asyncio.wait_for(backend._serving.drain(), 30)
    backend.engine.check_integrity()
    stats = backend.engine.stats()
    assert stats.running == stats.waiting == 0


def test_a_stream_says_what_a_whole_answer_says(backend):
    async def run():
        whole = await begin(backend, **{ModelOption.STREAM: False})
        await whole.avalue()
        thunk = await begin(backend)
        pieces = [piece async for piece in thunk]
        return whole, thunk, pieces

    whole, thunk, pieces = asyncio.run(run())
    assert "".join(pieces) == thunk.value == whole.value and len(pieces) > 1
    assert thunk.generation.usage["completion_tokens"] == whole.generation.usage["completion_tokens"] == 12
    assert thunk.generation.finish_reasons == ["length"] and thunk.generation.streaming
    assert thunk.generation.ttfb_ms is not None
    assert thunk.raw.response.token_ids == whole.raw.response.token_ids
    assert thunk.parsed_repr == thunk.value


def test_a_cancelled_stream_leaves_the_engine_idle_within_a_step(backend):
    async def run():
        thunk = await begin(backend, max_tokens=1500)
        await thunk.astream()
        before = backend.engine.stats().steps
        await thunk.cancel_generation()
        assert thunk.is_computed() and thunk.value
        await idle(backend)
        # One step may be under way, and one more have begun before the order is taken.
        assert backend.engine.stats().steps - before <= 3

    asyncio.run(run())


def test_leaving_a_stream_early_gives_it_up(backend):
    async def run():
        async with await begin(backend, max_tokens=1500) as thunk:
            async for _ in thunk:
                break
        await idle(backend)
        assert backend.engine.stats().tokens_decoded < 1000

    asyncio.run(run())


def test_whole_answers_can_be_cancelled(backend):
    async def run():
        thunk = await begin(backend, max_tokens=1500, **{ModelOption.STREAM: False})
        task = asyncio.create_task(thunk.avalue())
        while backend.engine.stats().steps < 2:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await thunk.cancel_generation()
        await idle(backend)

    asyncio.run(run())
    assert backend.engine.stats().tokens_decoded < 1500


def test_an_event_loop_that_ends_gives_its_requests_up(backend):
    async def run():
        return await begin(backend, max_tokens=1500)

    asyncio.run(run())
    asyncio.run(idle(backend))


def test_a_stream_that_is_too_slow_ends_with_a_timeout(backend, monkeypatch):
    gate = threading.Event()
    step = backend.engine.loop._run

    def stuck(batch):
        gate.wait(30)
        return step(batch)

    monkeypatch.setattr(backend.engine.loop, "_run", stuck)

    async def run():
        thunk = await begin(backend, **{ModelOption.STREAM_TIMEOUT: 0.05})
        with pytest.raises(TimeoutError, match="STREAM_TIMEOUT"):
            await thunk.avalue()
        gate.set()
        await idle(backend)

    asyncio.run(run())


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_an_error_of_a_step_reaches_whoever_waits(backend, monkeypatch, stream):
    def broken(batch):
        raise ZeroDivisionError("broken")

    async def run():
        monkeypatch.setattr(backend.engine.loop, "_run", broken)
        thunk = await begin(backend, **{ModelOption.STREAM: stream})
        with pytest.raises(StepError, match="broken"):
            await asyncio.wait_for(thunk.avalue(), 30)
        monkeypatch.undo()
        await idle(backend)
        assert (await (await begin(backend)).avalue()) is not None

    asyncio.run(run())


def test_an_error_in_the_midst_of_a_stream_reaches_its_consumer(backend, monkeypatch):
    calls = []
    step = backend.engine.loop._run

    def breaks(batch):
        calls.append(1)
        if len(calls) > 4:
            raise ZeroDivisionError("broken")
        return step(batch)

    monkeypatch.setattr(backend.engine.loop, "_run", breaks)

    async def run():
        thunk = await begin(backend, max_tokens=100)
        with pytest.raises(StepError):
            async for _ in thunk:
                pass

    asyncio.run(run())


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_closing_ends_every_thunk(new_backend, stream):
    backend = new_backend(model_options={"max_tokens": 1500, "ignore_eos": True, ModelOption.STREAM: stream})

    async def run():
        thunks = [await begin(backend, f"Question {i}", **{ModelOption.STREAM: stream}) for i in range(3)]
        while backend.engine.stats().steps < 2:
            await asyncio.sleep(0)
        await backend.aclose()
        for thunk in thunks:
            await asyncio.wait_for(thunk.avalue(), 30)
            assert thunk.generation.finish_reasons == ["abort"]
        with pytest.raises(ClosedError):
            await begin(backend)

    asyncio.run(run())


def test_an_action_that_cannot_be_read_is_an_error_and_not_a_hang(backend, monkeypatch):
    import alorakit.bindings.mellea.thunks as thunks

    def broken(*args):
        raise ValueError("cannot read tool calls")

    monkeypatch.setattr(thunks, "GenerateLog", broken)

    async def run():
        with pytest.raises(ValueError, match="cannot read"):
            await asyncio.wait_for((await begin(backend)).avalue(), 30)

    asyncio.run(run())


def test_an_adapter_function_is_not_streamed(backend, checker):
    from mellea.backends.adapters import AdapterType
    from mellea.stdlib.components import Intrinsic, Message

    backend.add_adapter(checker)
    action = Intrinsic("checker", intrinsic_kwargs={"requirement": "x"}, adapter_types=(AdapterType.ALORA,))

    async def run():
        with pytest.raises(RequestError, match=r"drop ModelOption\.STREAM"):
            await backend.generate_from_context(action, ChatContext().add(Message("user", "x")), model_options=STREAM)

    asyncio.run(run())


def test_a_stream_does_not_wait_for_another(backend):
    async def run():
        long = await begin(backend, "A long one.", max_tokens=600)
        await long.astream()
        started = time.perf_counter()
        short = await begin(backend, "A short one.", max_tokens=2)
        await short.avalue()
        assert not long.is_computed() and backend.engine.stats().tokens_decoded < 600, time.perf_counter() - started
        await long.cancel_generation()

    asyncio.run(run())
