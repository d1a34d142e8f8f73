"""Thousands of mixed requests in a small cache: nothing lost, no memory or thread left behind."""

import asyncio
import gc
import random
import threading

import psutil

from alorakit.engine.async_engine import AsyncEngine
from alorakit.engine.request import SamplingParams

from .conftest import ALL_SEVEN, INVOCATION

REQUESTS, REPLACEMENTS, CACHE_TOKENS, CONCURRENT = 5000, 50, 4096, 48
WARM = 1000


def resident() -> int:
    gc.collect()
    return psutil.Process().memory_info().rss


class Soak:
    """Requests of every kind; counts how each ended."""

    def __init__(self, engine: AsyncEngine, folders: dict) -> None:
        self.engine, self.folders, self.rng = engine, folders, random.Random(7)
        self.contexts = [[self.rng.randrange(10, 300) for _ in range(self.rng.randrange(20, 200))] for _ in range(40)]
        self.sent, self.ended, self.memory = 0, {"answered": 0, "aborted": 0}, {}

    async def worker(self) -> None:
        while self.sent < REQUESTS:
            self.sent += 1
            if self.sent in (WARM, REQUESTS):
                self.memory[self.sent] = resident()
            if self.sent % (REQUESTS // REPLACEMENTS) == 0:
                name = self.rng.choice(sorted(self.folders))
                await self.engine.add_adapter(name, self.rng.choice(self.folders[name]), replace=True)
            await self.one()

    async def one(self) -> None:
        rng = self.rng
        name = rng.choice([None, *self.folders])
        prompt = [*rng.choice(self.contexts), *(rng.randrange(10, 300) for _ in range(rng.randrange(4))), *INVOCATION]
        params = SamplingParams(
            max_tokens=rng.randrange(1, 12), temperature=rng.choice([0.0, 1.0]), n=rng.choice([1, 1, 2]),
            ignore_eos=True, seed=rng.randrange(100), repetition_penalty=rng.choice([1.0, 1.2]),
        )  # fmt: skip
        kind = rng.randrange(10)
        if kind == 0:
            await self.leave(prompt, params, name)
        elif kind == 1:
            scores = await self.engine.score(prompt, ["yes", "no", "maybe"], name)
            assert len(scores) == 3
            self.ended["answered"] += 1
        else:
            outputs = await self.engine.generate(prompt, params, name, priority=rng.randrange(3))
            assert [len(o.token_ids) for o in outputs] == [params.max_tokens] * params.n
            self.ended["answered"] += 1

    async def leave(self, prompt: list[int], params: SamplingParams, name: str | None) -> None:
        """Give a request up after some turns of the event loop, or read the answer if it came first."""
        call = asyncio.create_task(self.engine.generate(prompt, params, name))
        for _ in range(self.rng.randrange(8)):
            await asyncio.sleep(0)
        call.cancel()
        try:
            await call
            self.ended["answered"] += 1
        except asyncio.CancelledError:
            self.ended["aborted"] += 1


def test_soak(tiny_engine, tiny_models, make_adapter):
    base = tiny_models["llama"]
    folders = {
        "a": [make_adapter(base, seed=seed) for seed in range(4)],
        "b": [make_adapter(base, seed=10 + seed, rank=16, targets=ALL_SEVEN) for seed in range(4)],
        "lora": [make_adapter(base, seed=20 + seed, invocation=None) for seed in range(4)],
    }

    async def main() -> Soak:
        engine = AsyncEngine(tiny_engine(cache_blocks=CACHE_TOKENS // 16, max_adapters=2))
        soak = Soak(engine, folders)
        for name, paths in folders.items():
            await engine.add_adapter(name, paths[0])
        await asyncio.wait_for(asyncio.gather(*(soak.worker() for _ in range(CONCURRENT))), 600)
        await engine.drain()
        engine.check_integrity()
        stats = engine.stats()
        assert stats.blocks_free + stats.blocks_cached == stats.blocks_total
        await engine.close()
        return soak

    before = {t.ident for t in threading.enumerate()}
    soak = asyncio.run(main())
    assert soak.ended["answered"] + soak.ended["aborted"] == soak.sent >= REQUESTS
    assert soak.ended["aborted"] > REQUESTS // 20
    assert soak.memory[REQUESTS] <= 1.02 * soak.memory[WARM]
    assert {t.ident for t in threading.enumerate()} <= before
