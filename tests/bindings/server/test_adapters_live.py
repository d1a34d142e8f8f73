"""Adapters that come and go while streams run."""

import asyncio
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from alorakit import Engine, SamplingParams
from alorakit.engine import registry
from tests.bindings.server.running import Running, settled
from tests.engine.folders import make_adapter

PROMPT = [*range(5, 25), 301, 17, 302]
KEY = {"authorization": "Bearer secret"}


@pytest.fixture
def server(live: Callable[..., Running], served_folder: Path, tmp_path: Path) -> Running:
    shutil.copytree(served_folder / "parts", tmp_path / "one")
    two = make_adapter(tmp_path / "two", served_folder / "model", ["q_proj", "o_proj"], 8, [301, 17, 302], 9)
    shutil.copy(served_folder / "parts" / "alorakit.json", two)
    return live(admin_key="secret", adapter_folders=[str(tmp_path)], served_model_name="tiny")


async def text_of(http: httpx.AsyncClient, model: str, tokens: int, on_event: Any = lambda count: None) -> str:
    """A streamed greedy answer; ``on_event`` is told how many events have come."""
    body = {"model": model, "prompt": PROMPT, "max_tokens": tokens, "ignore_eos": True, "temperature": 0}
    text, events = "", 0
    async with http.stream("POST", "/v1/completions", json=body | {"stream": True}) as answer:
        assert answer.status_code == 200, await answer.aread()
        async for line in answer.aiter_lines():
            if not line.startswith("data: {"):
                continue
            text += json.loads(line.removeprefix("data: "))["choices"][0]["text"]
            events += 1
            on_event(events)
    return text


def expected(engine: Engine, adapter: str | None, tokens: int) -> str:
    params = SamplingParams(max_tokens=tokens, ignore_eos=True)
    return engine.generate([PROMPT], params, adapter=adapter)[0].text


def test_streams_go_on_while_an_adapter_loads(server: Running, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    go, really = threading.Event(), registry.load_adapter

    def slow(*arguments: Any) -> Any:
        assert go.wait(30)
        return really(*arguments)

    monkeypatch.setattr(registry, "load_adapter", slow)

    async def main() -> str:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as http:
            wanted = {"name": "new", "path": "one"}
            loading = asyncio.create_task(http.post("/v1/adapters", json=wanted, headers=KEY))
            # The whole stream comes while the load waits.
            text = await text_of(http, "parts", 100)
            assert not loading.done()
            assert "new" not in engine.adapters
            again = await http.post("/v1/adapters", json=wanted, headers=KEY)
            assert (again.status_code, "being added" in again.json()["error"]["message"]) == (400, True)
            go.set()
            assert (await loading).status_code == 201
            assert await text_of(http, "new", 100) == text
            return text

    text = asyncio.run(main())
    asyncio.run(settled(server.served))
    assert text == expected(server.engine, "parts", 100)


def test_running_streams_keep_the_adapter_they_began_with(server: Running, engine: Engine) -> None:
    async def main() -> list[str]:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as http:
            began = [asyncio.Event() for _ in range(6)]

            def told(index: int) -> Callable[[int], None]:
                return lambda count: began[index].set()

            old = [asyncio.create_task(text_of(http, "parts", 300, told(index))) for index in range(6)]
            for event in began:
                await event.wait()
            wanted = {"name": "parts", "path": "two", "replace": True}
            assert (await http.post("/v1/adapters", json=wanted, headers=KEY)).status_code == 201
            new = await text_of(http, "parts", 300)
            assert (await http.delete("/v1/adapters/parts", headers=KEY)).status_code == 204
            gone = await http.post("/v1/completions", json={"model": "parts", "prompt": PROMPT})
            assert gone.status_code == 404
            return [new, *await asyncio.gather(*old)]

    before = expected(engine, "parts", 300)  # nothing else uses the engine yet
    new, *old = asyncio.run(main())
    asyncio.run(settled(server.served))
    assert old == [before] * 6
    engine.add_adapter("again", Path(server.app.state.alorakit.config.adapter_folders[0]) / "two")
    assert new == expected(engine, "again", 300) != before
    engine.check_integrity()


def test_checks_while_their_adapter_is_replaced(server: Running) -> None:
    chat = [{"role": "user", "content": "The pump vibrates."}]
    body = {"messages": chat, "checks": [{"adapter": "parts"}, {"adapter": "checker", "requirement": "x"}]}

    async def main() -> None:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as http:
            done = asyncio.Event()

            async def replace() -> None:
                turn = 0
                while not done.is_set():
                    turn += 1
                    wanted = {"name": "parts", "path": ("one", "two")[turn % 2], "replace": True}
                    assert (await http.post("/v1/adapters", json=wanted, headers=KEY)).status_code == 201

            replacing = asyncio.create_task(replace())
            seen = set()
            for _ in range(40):
                answer = await http.post("/v1/checks", json=body)
                assert answer.status_code == 200, answer.text
                seen.add(round(answer.json()["checks"][0]["probabilities"]["rod"], 4))
            done.set()
            await replacing
            assert len(seen) <= 2

    asyncio.run(main())
    asyncio.run(settled(server.served))
