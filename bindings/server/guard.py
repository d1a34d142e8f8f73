"""What every request passes before FastAPI sees it: request id, keys, readiness, body; and the log line at its end.

websocket?    refused
request id    the client's, if it is short printable ASCII, else a fresh one; in every response
host          421, if the server does not answer for it
ready?        503 for /v1 while the model is loaded or the server drains
key           401 for /v1 and /metrics, where keys are set
body          408, 413, 415, 400
application   whatever it raises becomes an error response, if nothing has been sent yet
"""

import asyncio
import hmac
import re
import secrets

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from alorakit.bindings.server.access import Access
from alorakit.bindings.server.body import check_json, read_body, replay
from alorakit.bindings.server.connection import ClientGone
from alorakit.bindings.server.errors import HttpError, as_http_error
from alorakit.bindings.server.hosts import check_host
from alorakit.bindings.server.state import ServerState

_GIVEN_ID = re.compile(r"[!-~]{1,128}")


class Guard:
    """ASGI middleware. It copies no message, so that a streamed answer costs no more than it must."""

    def __init__(self, app: ASGIApp, state: ServerState) -> None:
        """Guard ``app`` with the settings in ``state``."""
        self._app, self._state = app, state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] == "http":
            await self._request(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        access = scope["alorakit.access"] = _access(scope, headers)

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                access.status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", access.request_id.encode())]
                if self._state.draining:
                    message["headers"].append((b"connection", b"close"))
            else:
                access.bytes_out += len(message.get("body", b""))
            await send(message)

        self._state.in_flight += 1
        try:
            await self._app(scope, await self._admit(scope, headers, receive, access), answer)
        except ClientGone:
            access.error = "client_gone"
        except (Exception, asyncio.CancelledError) as error:
            if access.status is not None:
                raise
            if isinstance(error, asyncio.CancelledError):  # by the server, which ends
                error = HttpError(503, "the server is ending and gave the request up; send it again")
            told = as_http_error(error, access.request_id)
            access.error = told.code
            await told.response()(scope, receive, answer)
        finally:
            self._state.in_flight -= 1
            access.route = getattr(scope.get("route"), "path", None)
            access.end()
            for observe in self._state.observers:
                observe(access)

    async def _admit(self, scope: Scope, headers: Headers, receive: Receive, access: Access) -> Receive:
        """The ``receive`` that the application gets.

        Raises:
            HttpError: The request is refused.
            ClientGone: Its client went away.
        """
        config, path = self._state.config, scope["path"]
        check_host(headers.getlist("host"), config)
        is_api = path.startswith("/v1/") or path == "/v1"
        if is_api or path == "/metrics":
            self._check_key(headers, path)
        if is_api:
            self._state.serving()
        body = await read_body(receive, headers, config.max_body_bytes, config.read_timeout_s)
        access.bytes_in = len(body)
        if body:
            check_json(body, headers)
        return replay(body, receive)

    def _check_key(self, headers: Headers, path: str) -> None:
        """HttpError 401 if keys are set and the request has none of them; the admin's opens what it is for."""
        config = self._state.config
        if not config.api_keys:
            return
        keys = [*config.api_keys, *([config.admin_key] if config.admin_key and path.startswith("/v1/adapters") else [])]
        given = bearer(headers).encode("latin-1")  # the bytes as they came
        # Every key is compared, so that the time does not tell which one came close.
        if not sum(hmac.compare_digest(given, key.encode()) for key in keys):
            reason = "is not valid" if given else "is missing; send 'Authorization: Bearer KEY'"
            raise HttpError(401, f"the API key {reason}", headers={"www-authenticate": "Bearer"})


def bearer(headers: Headers) -> str:
    """The key that a request carries, or ''."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def _access(scope: Scope, headers: Headers) -> Access:
    given = headers.get("x-request-id", "")
    request_id = given if _GIVEN_ID.fullmatch(given) else f"req-{secrets.token_hex(12)}"
    client = scope.get("client")
    return Access(request_id, scope["method"], scope["path"], client[0] if client else "")
