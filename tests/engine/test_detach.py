"""An AsyncEngine beside direct use of its engine: in turn, and after it let go."""

import asyncio

import pytest

from alorakit.engine.async_engine import AsyncEngine
from alorakit.engine.errors import ClosedError

from .test_async_engine import PROMPT, greedy


def test_a_detached_engine_goes_on_by_itself(tiny_engine):
    engine = tiny_engine()
    [want] = engine.generate([PROMPT], greedy())

    async def main():
        served = AsyncEngine(engine)
        long = asyncio.create_task(served.generate([PROMPT], greedy(300)))
        await asyncio.sleep(0)
        served.detach()
        [output] = await long
        assert output.finish_reason == "abort"
        with pytest.raises(ClosedError):
            await served.generate([PROMPT])

    asyncio.run(main())
    assert engine.generate([PROMPT], greedy())[0].token_ids == want.token_ids
    engine.check_integrity()


def test_what_others_queue_on_the_engine_is_theirs_to_step(tiny_engine):
    async def main():
        served = AsyncEngine(tiny_engine())
        await served.generate([PROMPT], greedy(1))
        served.engine.add_request(PROMPT, greedy(1))
        steps = served.stats().steps
        await served.generate([], greedy(1))
        await asyncio.to_thread(lambda: None)
        assert served.stats().steps == steps
        [output] = served.engine.step()
        assert len(output.token_ids) == 1
        await served.close()

    asyncio.run(main())
