import asyncio
import json
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

from alorakit import Engine
from tests.bindings.server.running import Client, Running, chat, gated, settled

STEPS = 8
LONG = {"max_tokens": 1500, "ignore_eos": True}


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_client_that_goes_away_is_given_up_before_the_next_step(
    client: Client, engine: Engine, stream: bool, n: int
) -> None:
    async def ask() -> None:
        async with client() as http:
            with gated(engine) as permits:
                gone, sent = asyncio.Event(), 0
                body = json.dumps(chat(stream=stream, n=n, **LONG)).encode()
                messages = [{"type": "http.request", "body": body, "more_body": False}]

                async def receive() -> Any:
                    if messages:
                        return messages.pop()
                    await gone.wait()
                    return {"type": "http.disconnect"}

                async def send(message: Any) -> None:
                    nonlocal sent
                    sent += message["type"] == "http.response.body"

                headers = [(b"content-type", b"application/json")]
                scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": headers}
                scope |= {"query_string": b"", "raw_path": b"", "client": ("127.0.0.1", 1), "app": http.app}  # type: ignore[attr-defined, operator]
                task = asyncio.ensure_future(http.app(scope, receive, send))  # type: ignore[attr-defined]
                permits.release(STEPS)
                async with asyncio.timeout(20):
                    # The first step reads the prompt once for all samples, so the others are one token behind.
                    while engine.stats().tokens_decoded < STEPS + (n - 1) * (STEPS - 1) or (stream and not sent):
                        await asyncio.sleep(0)
                gone.set()
                await task
                permits.release()  # the step that the engine may be about to make
                await settled(http.served)  # type: ignore[attr-defined]
                stats = engine.stats()
                assert (stats.running, stats.waiting, stats.blocks_live) == (0, 0, 0)
                assert stats.requests_ended["abort"] == n
                assert http.app.state.alorakit.in_flight == 0  # type: ignore[attr-defined]
                engine.check_integrity()

    asyncio.run(ask())


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_connection_that_breaks(live: Callable[..., Running], engine: Engine, stream: bool) -> None:
    server = live()
    body = json.dumps(chat(stream=stream, **LONG)).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as sock, gated(engine) as permits:
        sock.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        permits.release(STEPS)
        if stream:
            sock.settimeout(20)
            assert sock.recv(100).startswith(b"HTTP/1.1 200")
        while not engine.stats().running:
            time.sleep(0.001)
        sock.close()
        # Closing is noticed by the server's thread; until then the engine may go on.
        while engine.stats().running:
            permits.release()
            time.sleep(0.001)
        assert engine.stats().tokens_decoded < LONG["max_tokens"]
    asyncio.run(settled(server.served))
    assert engine.stats().blocks_live == 0
    engine.check_integrity()
