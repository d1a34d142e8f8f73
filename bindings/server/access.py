"""What the log and the metrics know of one request: sizes, times and counts, no text."""

import json
import logging
import time
from dataclasses import dataclass, field
from typing import Any

from alorakit.engine.request import Usage

log = logging.getLogger("alorakit.server")


@dataclass
class Access:
    """One request.

    Attributes:
        request_id: What the client knows it by (``x-request-id``).
        method: HTTP method.
        path: Path as it was asked for.
        client: Address of the client.
        route: The route that answered, such as ``/v1/models/{model_id}``; None: none did.
        status: HTTP status; None: nothing was sent, since the client had gone.
        model: The model that was asked for.
        stream: Whether the answer was streamed.
        usage: Token counts.
        bytes_in, bytes_out: Bytes of the bodies.
        first_s: Seconds from the request to the answer's first token; None: there was none.
        total_s: Seconds from the request to the answer's end.
        error: Code of the error, or None.
        texts: Prompt and answers, filled only where the server is told to log them.
    """

    request_id: str
    method: str
    path: str
    client: str
    route: str | None = None
    status: int | None = None
    model: str | None = None
    stream: bool = False
    usage: Usage | None = None
    bytes_in: int = 0
    bytes_out: int = 0
    first_s: float | None = None
    total_s: float = 0.0
    error: str | None = None
    texts: dict[str, Any] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter, repr=False)

    def first(self) -> None:
        """Note that a token has come."""
        if self.first_s is None:
            self.first_s = time.perf_counter() - self.started

    def count(self, usage: Usage) -> None:
        """Add token counts."""
        before = self.usage or Usage(0, 0, 0)
        self.usage = Usage(
            before.prompt_tokens + usage.prompt_tokens,
            before.cached_tokens + usage.cached_tokens,
            before.completion_tokens + usage.completion_tokens,
        )

    def end(self) -> None:
        """Note that the answer has ended, and write one line of JSON to the log."""
        self.total_s = time.perf_counter() - self.started
        if not log.isEnabledFor(logging.INFO):
            return
        record: dict[str, Any] = {
            "event": "request",
            "id": self.request_id,
            "method": self.method,
            "path": self.path[:200],
            "client": self.client,
            "status": self.status,
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "ms": round(1000 * self.total_s, 2),
        }
        if self.model is not None:
            record |= {"model": self.model[:200], "stream": self.stream}
        if self.first_s is not None:
            record["first_ms"] = round(1000 * self.first_s, 2)
        if self.usage is not None:
            record |= vars(self.usage)
        if self.error is not None:
            record["error"] = self.error
        log.info("%s", json.dumps(record | self.texts))
