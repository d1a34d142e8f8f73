"""Limits that uvicorn leaves open: how long and how large a request's head may be, and how many connections there are.

A connection that is over a limit gets an error in OpenAI's shape and is closed. What comes after the head is the
guard's (``guard.py``).
"""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from alorakit.bindings.server.config import ServerConfig
from alorakit.bindings.server.errors import HttpError

MAX_HEAD_BYTES = 64 << 10
_PHRASES = {400: "Bad Request", 408: "Request Timeout", 431: "Request Header Fields Too Large", 503: "Unavailable"}


def limited_protocol(
    read_timeout_s: float, max_connections: int = ServerConfig.max_connections
) -> type[asyncio.Protocol]:
    """Uvicorn's HTTP protocol (httptools where it is installed, else h11) with limits.

    Args:
        read_timeout_s: Seconds within which a request's line and headers must have come.
        max_connections: Most open connections.
    """
    base: Any = AutoHTTPProtocol

    class LimitedProtocol(base):  # type: ignore[misc]
        """One connection."""

        _head_bytes = 0
        _in_body = False
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            if len(self.connections) > max_connections:
                self._refuse(503, f"more than {max_connections} connections are open; try again later")
            else:
                self._start_timer()

        def data_received(self, data: bytes) -> None:
            if self.transport.is_closing():
                return
            super().data_received(data)
            # The head is whole once uvicorn has made a cycle of it, which lasts until its response is complete.
            if self.transport.is_closing() or (self.cycle is not None and not self.cycle.response_complete):
                self._head_bytes = 0
                self._stop_timer()
                return
            self._start_timer()  # a body that goes on after its response has the same time as a head
            self._head_bytes = 0 if self._reads_body() else self._head_bytes + len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(431, f"the request's head is longer than {MAX_HEAD_BYTES} bytes; send fewer headers")

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_timer()
            super().connection_lost(exc)

        def on_headers_complete(self) -> None:
            self._in_body = True
            super().on_headers_complete()

        def on_message_complete(self) -> None:
            self._in_body = False
            super().on_message_complete()

        def _reads_body(self) -> bool:
            """Whether a body is coming: httptools calls back, h11 has a state."""
            return self._in_body or (hasattr(self, "conn") and self.conn.their_state is h11.SEND_BODY)

        def send_400_response(self, msg: str) -> None:
            self._refuse(400, "this is no HTTP request that can be read; send one as HTTP clients do")

        def _start_timer(self) -> None:
            if self._timer is None:
                self._timer = self.loop.call_later(read_timeout_s, self._too_slow)

        def _stop_timer(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _too_slow(self) -> None:
            self._timer = None
            self._refuse(408, f"the request's head did not come within {read_timeout_s:g} seconds; send it faster")

        def _refuse(self, status: int, message: str) -> None:
            self._stop_timer()
            if not self.transport.is_closing():
                self.transport.write(_refusal(status, message))
                self.transport.close()

    return LimitedProtocol


def _refusal(status: int, message: str) -> bytes:
    """A whole HTTP response."""
    error = HttpError(status, message)
    body = error.response().body
    headers = {
        **error.headers,
        "content-type": "application/json",
        "content-length": str(len(body)),
        "connection": "close",
    }
    lines = [f"HTTP/1.1 {status} {_PHRASES[status]}", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode("ascii") + bytes(body)
