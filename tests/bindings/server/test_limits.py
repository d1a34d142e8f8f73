import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from alorakit import Engine
from tests.bindings.server.running import CHAT, Client, chat, error_of, gated, settled


@pytest.fixture
def narrow(served_folder: Path) -> Iterator[Engine]:
    """An engine that runs one sequence and lets two wait."""
    settings: dict[str, Any] = {"dtype": "float32", "device": "cpu", "block_size": 16}
    with Engine.from_pretrained(served_folder / "model", max_num_seqs=1, max_waiting=2, **settings) as made:
        yield made
        made.check_integrity()


class TestBusy:
    @pytest.fixture
    def engine(self, narrow: Engine) -> Engine:
        return narrow

    @pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
    def test_too_many_wait(self, client: Client, engine: Engine, stream: bool) -> None:
        async def ask() -> None:
            async with client() as http:
                with gated(engine):
                    answer = await http.post(CHAT, json=chat(n=5, stream=stream))
                    error = error_of(answer, 429)
                    assert (error["type"], error["code"]) == ("rate_limit_error", "engine_busy")
                    assert int(answer.headers["retry-after"]) >= 1
                await settled(http.served)  # type: ignore[attr-defined]
                assert (await http.post(CHAT, json=chat())).status_code == 200

        asyncio.run(ask())


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_time(client: Client, engine: Engine, stream: bool) -> None:
    async def ask() -> None:
        async with client(request_timeout_s=0.2) as http:
            with gated(engine):
                error = error_of(await http.post(CHAT, json=chat(stream=stream)), 504)
                assert "request_timeout_s" in error["message"]
            await settled(http.served)  # type: ignore[attr-defined]
            assert engine.stats().requests_ended["abort"] == 1

    asyncio.run(ask())


def test_time_within_a_stream(client: Client, engine: Engine) -> None:
    async def ask() -> None:
        async with client(request_timeout_s=0.3) as http:
            with gated(engine) as permits:
                permits.release(4)
                answer = await http.post(CHAT, json=chat(stream=True, max_tokens=50, ignore_eos=True))
            assert answer.status_code == 200
            first, *_, last, empty = answer.text.split("\n\n")
            assert '"role":"assistant"' in first and empty == ""
            assert json.loads(last.removeprefix("data: "))["error"]["code"] == "timeout"

    asyncio.run(ask())


def test_draining(client: Client) -> None:
    async def ask() -> None:
        async with client() as http:
            http.app.state.alorakit.draining = True  # type: ignore[attr-defined]
            for answer in (await http.post(CHAT, json=chat()), await http.get("/v1/models"), await http.get("/ready")):
                error_of(answer, 503)
                assert (int(answer.headers["retry-after"]) >= 1, answer.headers["connection"]) == (True, "close")
            assert (await http.get("/health")).status_code == 200

    asyncio.run(ask())


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_an_engine_that_is_closed_meanwhile(client: Client, engine: Engine, stream: bool) -> None:
    async def ask() -> None:
        async with client() as http:
            with gated(engine) as permits:
                asked = asyncio.ensure_future(http.post(CHAT, json=chat(stream=stream, max_tokens=50, ignore_eos=True)))
                permits.release(8)
                async with asyncio.timeout(20):
                    while engine.stats().tokens_decoded < 8:
                        await asyncio.sleep(0)
                http.served.detach(wait=False)  # type: ignore[attr-defined]
                permits.release(1)
                answer = await asked
            if stream:
                last = answer.text.split("\n\n")[-2]
                assert json.loads(last.removeprefix("data: "))["error"]["code"] == "unavailable"
            else:
                error_of(answer, 503)
            assert error_of(await http.post(CHAT, json=chat()), 503)["code"] == "unavailable"
            error_of(await http.get("/ready"), 503)

    asyncio.run(ask())


def test_tokens(client: Client, engine: Engine) -> None:
    async def ask() -> None:
        async with client(max_new_tokens=5, default_max_tokens=3) as http:
            for asked, given in ((None, 3), (4, 4), (5, 5)):
                answer = await http.post(CHAT, json=chat(max_tokens=asked, ignore_eos=True))
                assert answer.json()["usage"]["completion_tokens"] == given
            error = error_of(await http.post(CHAT, json=chat(max_completion_tokens=6)), 400)
            assert error["param"] == "max_completion_tokens" and "5" in error["message"]
            text = {"model": "tiny", "prompt": "The pump", "ignore_eos": True}
            answer = await http.post("/v1/completions", json=text)
            assert answer.json()["usage"]["completion_tokens"] == 3
        async with client() as http:
            answer = await http.post("/v1/completions", json=text)
            assert answer.json()["usage"]["completion_tokens"] == 16
            answer = await http.post(CHAT, json=chat(max_tokens=None, ignore_eos=True))
            assert answer.json()["usage"]["total_tokens"] == engine.model_config.max_position_embeddings
            assert answer.json()["choices"][0]["finish_reason"] == "length"
            many = {"model": "tiny", "prompt": ["a"] * 200, "n": 2}
            assert error_of(await http.post("/v1/completions", json=many), 400)["param"] == "n"

    asyncio.run(ask())
