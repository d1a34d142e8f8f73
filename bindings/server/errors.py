"""Errors as OpenAI's interface has them: ``{"error": {"message", "type", "param", "code"}}``."""

import json
import logging
from collections.abc import Mapping
from typing import Any

from fastapi.responses import Response

from alorakit.engine.errors import (
    AdapterNotFoundError,
    AlorakitError,
    ClosedError,
    EngineBusyError,
    HubError,
    NumericsError,
    StepError,
)

log = logging.getLogger("alorakit.server")

RETRY_S = 1
TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
CODES = {
    401: "invalid_api_key",
    403: "permission_denied",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "body_too_large",
    415: "unsupported_media_type",
    429: "engine_busy",
    500: "internal_error",
    502: "hub_error",
    503: "unavailable",
    504: "timeout",
}


class HttpError(AlorakitError, RuntimeError):
    """What a request is refused with.

    Attributes:
        status: HTTP status.
        param: Dotted path of the field that is to blame, or None.
        code: Short name of the reason, or None.
        headers: Headers of the response beside the usual ones.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """``code`` None: the usual one of the status."""
        super().__init__(message)
        self.status, self.param, self.code = status, param, code or CODES.get(status)
        self.headers = dict(headers or {})
        if status in (429, 503):
            self.headers.setdefault("retry-after", str(RETRY_S))

    def body(self) -> dict[str, Any]:
        """The error as JSON."""
        kind = TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        """The error as a response."""
        return json_response(self.body(), self.status, self.headers)


def json_response(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON response; ASCII only, so that any text a client sent can be said back."""
    text = json.dumps(content, separators=(",", ":"))
    return Response(text, status, dict(headers or {}), media_type="application/json")


def as_http_error(error: BaseException, request_id: str) -> HttpError:
    """What a client is told of an error; unexpected ones are logged with the request's id and told by it alone."""
    if isinstance(error, HttpError):
        return error
    status = _status(error)
    if status == 500:
        log.error("request %s failed", request_id, exc_info=error)
        return HttpError(500, f"the server failed on this request (x-request-id {request_id}); see the server's log")
    message = str(error)
    if isinstance(error, AdapterNotFoundError):
        return HttpError(404, message, param="model", code="model_not_found")
    name = message.split("=", 1)[0]
    return HttpError(status, message, param=name if status == 400 and name.isidentifier() else None)


def _status(error: BaseException) -> int:
    if isinstance(error, StepError | NumericsError) or not isinstance(error, AlorakitError):
        return 500
    kinds: dict[type[AlorakitError], int] = {
        EngineBusyError: 429,
        ClosedError: 503,
        HubError: 502,
    }
    return next((status for kind, status in kinds.items() if isinstance(error, kind)), 400)
