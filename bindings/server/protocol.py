"""uvicorn's HTTP protocol with limits on what a request may be before the application sees it: time and size."""

import asyncio
from collections.abc import Callable

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from alorakit.bindings.server.errors import HttpError

MAX_HEAD_BYTES = 64 << 10
# The application answers 408 to a body that is late; only then is a connection cut that still sends it.
GRACE_S = 1.0


def limited_protocol(read_timeout_s: float) -> Callable[..., HttpToolsProtocol]:
    """A protocol class for ``uvicorn.Config(http=...)`` that cuts connections whose requests do not arrive.

    Args:
        read_timeout_s: Seconds for a request's head, and again for its body.
    """

    class LimitedProtocol(HttpToolsProtocol):
        """One connection. The timer runs from its start, or a request's first byte, to the end of the request."""

        _timer: asyncio.TimerHandle | None = None
        _in_head = True
        _only_head = True  # the last bytes were a part of a head, and nothing else
        _head_bytes = 0

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)  # type: ignore[arg-type]
            self._arm(read_timeout_s)

        def connection_lost(self, exc: Exception | None) -> None:
            self._disarm()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            idle = self.cycle is None or self.cycle.response_complete
            if idle and self._timer is None:  # also for blank lines, which begin no message
                self._arm(read_timeout_s)
            self._only_head = self._in_head
            super().data_received(data)
            if self._only_head:
                self._head_bytes += len(data)
                if self._head_bytes > MAX_HEAD_BYTES:
                    self._refuse()

        def on_headers_complete(self) -> None:
            self._arm(read_timeout_s + GRACE_S)
            self._in_head = self._only_head = False
            super().on_headers_complete()

        def on_message_complete(self) -> None:
            self._disarm()
            self._in_head, self._head_bytes = True, 0
            super().on_message_complete()

        def _refuse(self) -> None:
            told = HttpError(431, f"the request's head has more than {MAX_HEAD_BYTES} bytes; send less")
            body = bytes(told.response().body)
            head = f"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: {len(body)}\r\n"
            self.transport.write(f"{head}content-type: application/json\r\nconnection: close\r\n\r\n".encode() + body)
            self.transport.close()

        def _arm(self, seconds: float) -> None:
            self._disarm()
            self._timer = self.loop.call_later(seconds, self._cut)

        def _disarm(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _cut(self) -> None:
            self._timer = None
            self.transport.abort()

    return LimitedProtocol
