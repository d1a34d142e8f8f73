"""A server in a process of its own, and a client that costs next to nothing, so that the server is what is measured."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

_PROGRAM = "from alorakit.bindings.cli.main import alorakit; alorakit()"
ADMIN_KEY = "benchmark"


@dataclass
class Server:
    """A server that answers.

    Attributes:
        port: Its port of loopback.
        process: What it runs in.
    """

    port: int
    process: subprocess.Popen[bytes]

    def resident(self) -> int:
        """Resident bytes of the process."""
        return int(psutil.Process(self.process.pid).memory_info().rss)


@contextmanager
def served(model: str, options: Sequence[str], log: Path) -> Iterator[Server]:
    """Start ``alorakit serve`` on a free port of loopback; it is ended by SIGTERM, which must end it well.

    Args:
        model: Hub id or folder.
        options: Further options.
        log: File for what it logs.
    """
    command = [sys.executable, "-c", _PROGRAM, "serve", model, "--port", "0", "--json", *options]
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, env={**os.environ, "ALORAKIT_ADMIN_KEY": ADMIN_KEY}
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            sys.exit(f"the server did not start: {log.read_text(encoding='utf-8')[-500:]}")
        yield Server(int(json.loads(line)["url"].rpartition(":")[2]), process)
        process.terminate()
        if code := process.wait(60):
            sys.exit(f"the server ended with code {code}; see {log}")
    finally:
        process.kill()
        process.wait()


@dataclass
class Streamed:
    """What came of one stream.

    Attributes:
        status: HTTP status; 0: the connection failed.
        text: The answer, as far as it came.
        done: Whether it came to its end.
        first_s: Seconds until the first token.
        tokens: Events with text.
    """

    status: int = 0
    text: str = ""
    done: bool = False
    first_s: float | None = None
    tokens: int = field(default=0, repr=False)


async def stream(port: int, body: dict[str, Any], leave_after: int | None = None) -> Streamed:
    """Stream a completion.

    Args:
        port: The server's.
        body: The request, without ``stream``.
        leave_after: Vanish after so many pieces; None: stay to the end.
    """
    found, began = Streamed(), time.perf_counter()
    try:
        reader, writer = await _send(port, "POST", "/v1/completions", body | {"stream": True})
        try:
            found.status = int((await reader.readline()).split()[1])
            async for line in reader:
                if not line.startswith(b"data: "):
                    continue
                if line.startswith(b"data: [DONE]"):
                    found.done = True
                    break
                event = json.loads(line[6:])
                if "error" in event:
                    break
                found.first_s = found.first_s or time.perf_counter() - began
                found.text += event["choices"][0]["text"]
                found.tokens += 1
                if found.tokens == leave_after:
                    writer.transport.abort()
                    break
        finally:
            writer.close()
    except (OSError, IndexError, ValueError):
        found.done = False
    return found


async def ask(port: int, method: str, path: str, body: dict[str, Any] | None = None) -> int:
    """Make a request with the admin's key; its status, or 0 where the connection failed."""
    try:
        reader, writer = await _send(port, method, path, body)
        try:
            status = int((await reader.readline()).split()[1])
            await reader.read()
            return status
        finally:
            writer.close()
    except (OSError, IndexError, ValueError):
        return 0


async def _send(
    port: int, method: str, path: str, body: dict[str, Any] | None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    content = b"" if body is None else json.dumps(body).encode()
    kind = f"content-type: application/json\r\ncontent-length: {len(content)}\r\n" if content else ""
    head = (
        f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n"
        f"authorization: Bearer {ADMIN_KEY}\r\n{kind}\r\n"
    )
    writer.write(head.encode() + content)
    await writer.drain()
    return reader, writer


async def repeat(until: float, action: Callable[[int], Any]) -> None:
    """Await ``action`` of 0, 1, 2 … until ``time.perf_counter()`` passes ``until``."""
    turn = 0
    while time.perf_counter() < until:
        await action(turn)
        turn += 1
