"""The server's life, in processes of its own: loading, load, signals, crashes."""

import asyncio
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from alorakit import AsyncEngine, Engine
from alorakit.bindings.server import ServerConfig, create_app, run
from tests.bindings.server.process import COMMAND, failed, free_port, process

ENDLESS = {"model": "tiny", "prompt": "The pump", "max_tokens": 1900, "ignore_eos": True, "temperature": 0}


async def streamed(http: httpx.AsyncClient, body: dict[str, Any], begun: asyncio.Semaphore) -> list[str]:
    """The data of a stream's events; ``begun`` is released at the first."""
    events: list[str] = []
    async with http.stream("POST", "/v1/completions", json=body | {"stream": True}) as answer:
        assert answer.status_code == 200, await answer.aread()
        async for line in answer.aiter_lines():
            if line.startswith("data: "):
                events.append(line.removeprefix("data: "))
                if len(events) == 1:
                    begun.release()
    return events


def client(url: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, timeout=60, limits=httpx.Limits(max_connections=None))


async def running(http: httpx.AsyncClient, number: int) -> None:
    """Wait until so many sequences have been accepted."""
    async with asyncio.timeout(60):
        while True:
            lines = (await http.get("/metrics")).text.splitlines()
            if sum(float(line.split()[-1]) for line in lines if line.startswith("alorakit_sequences{")) >= number:
                return


def test_killed_restarted_and_drained_under_load(served_folder: Path) -> None:
    port = str(free_port())
    options = (
        "--port",
        port,
        "--drain-s",
        "60",
        "--served-model-name",
        "tiny",
        "--adapter",
        f"parts={served_folder / 'parts'}",
    )

    async def killed(url: str, kill: Any) -> None:
        async with client(url) as http:
            begun = asyncio.Semaphore(0)
            reading = asyncio.create_task(streamed(http, ENDLESS, begun))
            await begun.acquire()
            kill()
            with pytest.raises(httpx.TransportError):
                await reading

    with process(served_folder / "model", *options) as first:
        assert first.ready["adapters"] == ["parts"]
        asyncio.run(killed(first.url, first.child.kill))

    async def drained(url: str, send: Any) -> None:
        async with client(url) as http:
            begun = asyncio.Semaphore(0)
            body = ENDLESS | {"max_tokens": 400}
            reading = [asyncio.create_task(streamed(http, body, begun)) for _ in range(6)]
            waiting = [asyncio.create_task(http.post("/v1/completions", json=body)) for _ in range(6)]
            for _ in reading:
                await begun.acquire()
            await running(http, 12)
            send()
            while (late := await http.post("/v1/completions", json=body)).status_code == 200:
                pass  # the signal takes a moment to be seen
            assert (late.status_code, late.headers["connection"]) == (503, "close")
            assert int(late.headers["retry-after"]) >= 1
            assert "ending" in late.json()["error"]["message"]
            for events in await asyncio.gather(*reading):
                assert events[-1] == "[DONE]"
            answers = await asyncio.gather(*waiting)
            assert [answer.status_code for answer in answers] == [200] * 6
            assert {answer.json()["usage"]["completion_tokens"] for answer in answers} == {400}

    with process(served_folder / "model", *options) as second:
        asyncio.run(drained(second.url, lambda: second.child.send_signal(signal.SIGTERM)))
        assert second.child.wait(60) == 0


def test_what_is_left_at_the_drain_limit_gets_an_error(served_folder: Path) -> None:
    async def main(url: str, send: Any) -> float:
        async with client(url) as http:
            begun = asyncio.Semaphore(0)
            reading = [asyncio.create_task(streamed(http, ENDLESS, begun)) for _ in range(8)]
            waiting = [asyncio.create_task(http.post("/v1/completions", json=ENDLESS)) for _ in range(2)]
            checking = asyncio.create_task(
                http.post("/v1/score", json={"model": "tiny", "prompt": "a", "candidates": ["b"]})
            )
            for _ in reading:
                await begun.acquire()
            await running(http, 10)
            send()
            sent = time.monotonic()
            for events in await asyncio.gather(*reading):
                assert '"error"' in events[-1] and '"unavailable"' in events[-1]
                assert "[DONE]" not in events
            for answer in await asyncio.gather(*waiting):
                assert answer.status_code == 503
                assert answer.json()["error"]["code"] == "unavailable"
            assert (await checking).status_code == 200
            return sent

    with process(served_folder / "model", "--port", "0", "--served-model-name", "tiny", "--drain-s", "0.2") as server:
        sent = asyncio.run(main(server.url, lambda: server.child.send_signal(signal.SIGINT)))
        assert server.child.wait(60) == 0
        assert time.monotonic() - sent < 0.2 + 5


def test_a_second_signal_ends_at_once(served_folder: Path) -> None:
    async def main(url: str, end: Any) -> None:
        async with client(url) as http:
            begun = asyncio.Semaphore(0)
            reading = [asyncio.create_task(streamed(http, ENDLESS, begun)) for _ in range(8)]
            for _ in reading:
                await begun.acquire()
            end(signal.SIGTERM)
            while (await http.get("/ready")).status_code == 200:
                pass
            assert (await http.get("/health")).status_code == 200
            end(signal.SIGTERM)
            for result in await asyncio.gather(*reading, return_exceptions=True):
                assert isinstance(result, httpx.TransportError)

    with process(served_folder / "model", "--port", "0", "--served-model-name", "tiny") as server:
        asyncio.run(main(server.url, server.child.send_signal))
        assert server.child.wait(60) == 128 + signal.SIGTERM


def test_a_load_that_hangs_does_not_keep_the_process(served_folder: Path) -> None:
    wait = "a.allowed_folder = lambda *_: time.sleep(99)"
    slow = f"import time\nfrom alorakit.bindings.server import adapters as a\n{wait}"
    options = ("--port", "0", "--drain-s", "0.2", "--admin-key", "k", "--adapter-folder", str(served_folder))

    async def main(url: str, send: Any) -> float:
        async with client(url) as http:
            http.headers["authorization"] = "Bearer k"
            loading = asyncio.create_task(http.post("/v1/adapters", json={"name": "n", "path": "parts"}))
            while "alorakit_http_in_flight 2.0" not in (await http.get("/metrics")).text:
                pass
            send()
            sent = time.monotonic()
            answer = await loading
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
            return sent

    with process(served_folder / "model", *options, program=f"{slow}\n{COMMAND}") as server:
        sent = asyncio.run(main(server.url, lambda: server.child.send_signal(signal.SIGTERM)))
        assert server.child.wait(60) == 0
        assert time.monotonic() - sent < 0.2 + 5


def test_starts_that_are_refused(served_folder: Path, tmp_path: Path) -> None:
    model = served_folder / "model"
    line = failed(model, "--host", "0.0.0.0", ALORAKIT_API_KEYS="")
    assert "'0.0.0.0'" in line and "ALORAKIT_API_KEYS" in line
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"port={port} cannot be listened on (Address already in use)" in failed(model, "--port", port)
    assert "neither of them empty" in failed(model, "--adapter", "x=")
    assert "'parts' twice" in failed(model, "--adapter", "parts", "--adapter", "parts=elsewhere")
    assert "no such folder" in failed(tmp_path / "nothing", "--port", "0")
    assert "not a folder" in failed(model, "--port", "0", "--device", "cpu", "--adapter", f"x={tmp_path}/nothing")
    assert "dtype='float8'" in failed(model, "--port", "0", "--dtype", "float8")


@pytest.fixture
def loading(engine: Engine) -> Iterator[tuple[str, threading.Event, run.Server]]:
    """A server whose model is loaded when the event is set."""
    gate, listener, config = threading.Event(), run.listen("127.0.0.1", 0), ServerConfig()

    def load() -> AsyncEngine:
        gate.wait(60)
        return AsyncEngine(engine)

    app = create_app(None, config)
    server = run.Server(app, config, load, lambda url, engine: None, run.address(listener))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    yield run.address(listener), gate, server
    gate.set()
    server.handle_exit(signal.SIGTERM, None)
    thread.join(60)
    assert not thread.is_alive()
    for timer in [other for other in threading.enumerate() if isinstance(other, threading.Timer)]:
        timer.join(5)
        assert not timer.is_alive()  # it would end this process


def test_the_socket_answers_while_the_model_is_loaded(loading: tuple[str, threading.Event, run.Server]) -> None:
    url, gate, _ = loading
    with httpx.Client(base_url=url) as http:
        assert http.get("/health").status_code == 200
        assert "alorakit_ready 0.0" in http.get("/metrics").text
        for path in ("/ready", "/v1/models", "/v1/adapters"):
            answer = http.get(path)
            assert (answer.status_code, "being loaded" in answer.json()["error"]["message"]) == (503, True)
            assert int(answer.headers["retry-after"]) >= 1
        gate.set()
        while http.get("/ready").status_code == 503:
            pass
        assert http.get("/v1/models").status_code == 200
        assert "alorakit_ready 1.0" in http.get("/metrics").text
