"""uvicorn's HTTP protocol with a time limit for requests to arrive: sending a byte a minute holds no connection."""

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

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
            super().data_received(data)

        def on_headers_complete(self) -> None:
            self._arm(read_timeout_s + GRACE_S)
            super().on_headers_complete()

        def on_message_complete(self) -> None:
            self._disarm()
            super().on_message_complete()

        def _arm(self, seconds: float) -> None:
            self._disarm()
            self._timer = self.loop.call_later(seconds, self._cut)

        def _disarm(self, *_: Any) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _cut(self) -> None:
            self._timer = None
            self.transport.abort()

    return LimitedProtocol
