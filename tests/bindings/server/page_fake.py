"""A server that speaks the part of the interface that the page uses, and says what a test tells it to."""

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from alorakit.bindings.server import page

MODEL = "org/tiny-model"
LABELS = {"rod": 0.9, "pump": 0.08, "none": 0.02}
CHUNK = 7  # bytes: server-sent events arrive cut anywhere
PROMPT_TOKENS = 120


def adapter(name: str, kind: str, labels: tuple[str, ...] = tuple(LABELS)) -> dict[str, Any]:
    return {"name": name, "kind": kind, "rank": 8, "targets": ["q_proj"], "invocation_tokens": None, "digest": "00",
            "labels": list(labels), "base_model": MODEL}  # fmt: skip


def check_result(wanted: dict[str, Any], kind: str, **changes: Any) -> dict[str, Any]:
    cached = PROMPT_TOKENS - 10 if kind == "alora" else 0
    result = {
        "name": wanted["adapter"], "adapter": wanted["adapter"], "kind": kind, "label": "rod", "answer": "rod",
        "passed": True, "score": 0.98, "probabilities": LABELS, "reason": "because",
        "usage": {"prompt_tokens": PROMPT_TOKENS, "cached_tokens": cached, "completion_tokens": 0},
        "activation": PROMPT_TOKENS - 4 if kind == "alora" else 0,
        "timing": {"queue_ms": 0.1, "first_ms": 3.0, "total_ms": 12.5 if kind == "alora" else 400.0},
    }  # fmt: skip
    result.update(changes)
    usage = result["usage"]
    assert isinstance(usage, dict)
    result.setdefault("tokens", [{"id": 1000 + i, "text": f" t{i}"} for i in range(usage["prompt_tokens"])])
    return result


@dataclass
class Fake:
    """What the server says, and what it was asked.

    Attributes:
        adapters: Those it lists.
        pieces: Texts that an answer is streamed in.
        finish: The answer's finish_reason; None: the connection ends before it.
        hold: Whether a stream waits, after its pieces, for its client to go away.
        results: Changes to the check results, by adapter.
        failures: (status, message, headers) with which the next requests of a path are refused; None: it is not.
        key: The key it wants, or None.
        asked: (path, body) of every POST, in order.
        gone: Set when the client of a held stream has gone away.
    """

    url: str = ""
    adapters: list[dict[str, Any]] = field(default_factory=list)
    pieces: tuple[str, ...] = ("Hello", ", wörld", " 🙂.")
    finish: str | None = "stop"
    hold: bool = False
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    failures: dict[str, list[tuple[int, str, dict[str, str]] | None]] = field(default_factory=dict)
    key: str | None = None
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    gone: threading.Event = field(default_factory=threading.Event)

    def bodies(self, path: str) -> list[dict[str, Any]]:
        return [body for asked, body in self.asked if asked == path]

    def refusal(self, request: Request) -> Response | None:
        if self.key is not None and request.headers.get("authorization") != f"Bearer {self.key}":
            return _error(401, "this server wants an API key", {})
        waiting = self.failures.get(request.url.path)
        failure = waiting.pop(0) if waiting else None
        return None if failure is None else _error(*failure)


@contextmanager
def serving(fake: Fake) -> Iterator[Fake]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        fake.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        server = uvicorn.Server(uvicorn.Config(_app(fake), log_level="error", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield fake
        finally:
            server.should_exit = True
            thread.join()


def _app(fake: Fake) -> FastAPI:
    app = FastAPI()
    app.include_router(page.router)

    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        data = [{"id": MODEL, "object": "model", "parent": None}]
        data += [{"id": known["name"], "object": "model", "parent": MODEL} for known in fake.adapters]
        return fake.refusal(request) or JSONResponse({"object": "list", "data": data})

    @app.get("/v1/adapters")
    async def adapters(request: Request) -> Response:
        return fake.refusal(request) or JSONResponse({"object": "list", "data": fake.adapters})

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        fake.asked.append(("/v1/chat/completions", await request.json()))
        return fake.refusal(request) or StreamingResponse(_stream(fake), media_type="text/event-stream")

    @app.post("/v1/checks")
    async def checks(request: Request) -> Response:
        body = await request.json()
        fake.asked.append(("/v1/checks", body))
        kinds = {known["name"]: known["kind"] for known in fake.adapters}
        results = [check_result(w, kinds[w["adapter"]], **fake.results.get(w["adapter"], {})) for w in body["checks"]]
        return fake.refusal(request) or JSONResponse({"object": "checks", "base": MODEL, "checks": results})

    return app


async def _stream(fake: Fake) -> AsyncIterator[bytes]:
    def chunk(delta: dict[str, str], finish: str | None = None) -> dict[str, Any]:
        return {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}

    usage = {"prompt_tokens": 40, "completion_tokens": len(fake.pieces), "prompt_tokens_details": {"cached_tokens": 30}}
    events = [chunk({"role": "assistant", "content": ""}), *(chunk({"content": piece}) for piece in fake.pieces)]
    if fake.finish is not None and not fake.hold:
        events += [chunk({}, fake.finish), {"choices": [], "usage": usage}]
    raw = "".join(f"data: {json.dumps(event, ensure_ascii=False)}\r\n\r\n" for event in events).encode()
    for start in range(0, len(raw), CHUNK):
        yield raw[start : start + CHUNK]
        await asyncio.sleep(0)
    if fake.hold:
        try:
            await asyncio.Event().wait()
        finally:
            fake.gone.set()
    if fake.finish is not None:
        yield b"data: [DONE]\n\n"


def _error(status: int, message: str, headers: dict[str, str]) -> Response:
    body = {"error": {"message": message, "type": "t", "param": None, "code": None}}
    return JSONResponse(body, status, headers)
