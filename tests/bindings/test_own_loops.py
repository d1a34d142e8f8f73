"""Synchronous calls: each has an event loop of its own, so that none waits for another's."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from alorakit import req
from alorakit.bindings.session.background import run


def test_a_function_may_ask_sessions_in_threads_of_its_own(session: Any) -> None:
    outer, said = session(), []

    def asks(ctx: Any) -> bool:
        with ThreadPoolExecutor(2) as pool:
            said.extend(pool.map(lambda text: session().chat(text).content, ["hi", "ho"]))
        return True

    done: list[Any] = []
    thread = threading.Thread(
        target=lambda: done.append(outer.instruct("x", requirements=[req("r", asks)])), daemon=True
    )
    thread.start()
    thread.join(30)
    assert len(done) == 1 and len(said) == 2


def test_a_slow_function_holds_nobody_else_up(session: Any) -> None:
    gate, asked, other = threading.Event(), threading.Event(), session()

    def waits(ctx: Any) -> bool:
        asked.set()
        return gate.wait(30)

    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(session().instruct, "x", requirements=[req("r", waits)])
        try:
            assert asked.wait(30)
            assert isinstance(other.chat("hi").content, str)
        finally:
            gate.set()
        assert slow.result(30).value is not None


def test_functions_run_in_the_callers_thread(session: Any) -> None:
    seen = []
    session().instruct("x", requirements=[req("r", lambda ctx: seen.append(threading.current_thread()) is None)])
    assert seen == [threading.current_thread()]


def test_the_threads_own_event_loop_stays_set() -> None:
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        assert run(_value()) == 3
        assert asyncio.get_event_loop_policy().get_event_loop() is loop
    finally:
        asyncio.set_event_loop(None)
        loop.close()


@pytest.mark.parametrize("inside", [False, True])
def test_an_exit_of_a_function_reaches_the_caller(session: Any, inside: bool) -> None:
    m = session()

    def leaves(ctx: Any) -> bool:
        raise SystemExit(3)

    async def main() -> None:
        m.instruct("x", requirements=[req("r", leaves)])

    with pytest.raises(SystemExit):
        asyncio.run(main()) if inside else m.instruct("x", requirements=[req("r", leaves)])
    assert isinstance(m.chat("hi").content, str)


def test_an_interrupt_cancels_what_another_thread_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    from concurrent.futures import Future

    began, ended = threading.Event(), []

    async def long() -> None:
        began.set()
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            ended.append(True)

    def interrupted(self: Any, timeout: Any = None) -> None:
        assert began.wait(20)
        raise KeyboardInterrupt

    async def main() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Future, "result", interrupted)
            run(long())

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())
    assert ended == [True]


async def _value() -> int:
    return 3
