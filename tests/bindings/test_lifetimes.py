"""What shares an engine with whom, and what closing, forking and forgetting leave behind."""

import asyncio
import gc
import multiprocessing
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest

from alorakit import AsyncEngine, Engine, EngineBackend, MelleaSession, req
from alorakit.bindings.session import Message, ModelOption, ModelOutputThunk
from alorakit.engine.errors import ClosedError
from tests.bindings.served import SHORT, stepping


def _ask(m: MelleaSession, answers: Any) -> None:
    with pytest.raises(ClosedError, match="forked"):
        asyncio.run(m.ctx.last_output().avalue())  # type: ignore[union-attr]  # the parent generates it
    m.reset()
    answers.put([m.chat("hi").content, m.validate(req("r", adapter="checker"))[0].label])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_process_has_sessions_of_its_own(session: Any) -> None:
    m = session()
    want = [m.chat("hi").content, m.validate(req("r", adapter="checker"))[0].label]
    endless = {ModelOption.MAX_NEW_TOKENS: 1500, ModelOption.MIN_TOKENS: 1500}
    under_way = asyncio.run(m.aact(Message("user", "hi"), model_options=endless))
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    child = context.Process(target=_ask, args=(m, answers))
    child.start()
    try:
        assert answers.get(timeout=60) == want
        child.join(60)
        assert child.exitcode == 0
    finally:
        child.kill()
    asyncio.run(under_way.cancel_generation())
    assert m.clone().ctx.last_output() is under_way


def test_two_backends_share_an_engine(engine: Engine) -> None:
    first, second = EngineBackend(engine=engine, model_options=SHORT), EngineBackend(engine=engine, model_options=SHORT)
    assert first.running() is second.running()
    first.close()
    said = MelleaSession(second).chat("hi")
    second.close()
    assert stepping() == 0

    async def main() -> None:
        served = AsyncEngine(engine)
        third = EngineBackend(engine=served, model_options=SHORT)
        assert third.engine is engine
        assert await MelleaSession(third).achat("hi") == said
        await third.aclose()
        assert len((await served.generate("hi"))[0].token_ids) > 0
        served.detach()

    asyncio.run(main())


def test_a_backend_that_nobody_holds_stops_stepping(engine: Engine) -> None:
    backend = EngineBackend(engine=engine, model_options=SHORT)
    MelleaSession(backend).chat("hi")
    [thread] = [thread for thread in threading.enumerate() if thread.name == "alorakit-step"]
    gone = weakref.ref(backend)
    del backend
    gc.collect()
    assert gone() is None
    thread.join(10)
    assert not thread.is_alive()


def test_closing_fails_what_is_under_way(engine: Engine) -> None:
    backend = EngineBackend(engine=engine)
    m = MelleaSession(backend)
    endless = {ModelOption.MAX_NEW_TOKENS: 1500, ModelOption.MIN_TOKENS: 1500}

    async def main() -> ModelOutputThunk[Any]:
        output = await m.aact(Message("user", "hi"), model_options=endless)
        while engine.stats().running == 0:
            await asyncio.sleep(0.001)
        await backend.aclose()
        with pytest.raises(ClosedError, match="closed while it answered"):
            await output.avalue()
        return output

    output = asyncio.run(main())
    assert not output.is_computed() and isinstance(output.error, ClosedError)
    engine.close()
    with pytest.raises(ClosedError, match="the engine is closed"):
        MelleaSession(EngineBackend(engine=engine)).chat("hi")


def test_a_backend_frees_the_engine_it_built(served_folder: Path) -> None:
    backend = EngineBackend(served_folder / "model", model_options=SHORT, dtype="float32", device="cpu")
    assert MelleaSession(backend).query({"a": 1}, "What is a?").value is not None
    backend.close()
    with pytest.raises(ClosedError):
        backend.engine.generate("x")
    assert stepping() == 0


def test_a_backend_at_the_address_of_one_that_is_gone_is_served(engine: Engine) -> None:
    for _ in range(60):  # each is freed before the next is made, and given back by another thread a moment later
        backend = EngineBackend(engine=engine, model_options={ModelOption.MAX_NEW_TOKENS: 1})
        for _ in range(2):
            MelleaSession(backend).chat("hi")
        del backend


def test_closing_the_engine_ends_what_a_session_asked_for(engine: Engine) -> None:
    m = MelleaSession(EngineBackend(engine=engine))
    endless = {ModelOption.MAX_NEW_TOKENS: 1500, ModelOption.MIN_TOKENS: 1500}

    async def main() -> None:
        output = await m.aact(Message("user", "hi"), model_options=endless)
        while engine.stats().running == 0:
            await asyncio.sleep(0.001)
        await asyncio.to_thread(engine.close)
        with pytest.raises(ClosedError):
            await asyncio.wait_for(output.avalue(), 20)

    asyncio.run(main())
