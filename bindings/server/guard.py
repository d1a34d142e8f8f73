"""What every request passes before FastAPI sees it: a request id, and whatever fails comes out as an error."""

import re
import secrets

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from alorakit.bindings.server.access import Access
from alorakit.bindings.server.errors import as_http_error
from alorakit.bindings.server.state import ServerState

_GIVEN_ID = re.compile(r"[!-~]{1,128}")


class Guard:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, state: ServerState) -> None:
        """Guard ``app`` with the settings in ``state``."""
        self._app, self._state = app, state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _GIVEN_ID.fullmatch(given) else f"req-{secrets.token_hex(12)}"
        host = scope["client"][0] if scope.get("client") else ""
        access = scope["alorakit.access"] = Access(request_id, scope["method"], scope["path"], host)

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                access.status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            else:
                access.bytes_out += len(message.get("body", b""))
            await send(message)

        self._state.in_flight += 1
        try:
            await self._app(scope, receive, answer)
        except Exception as error:
            if access.status is not None:
                raise
            await as_http_error(error, request_id).response()(scope, receive, answer)
        finally:
            self._state.in_flight -= 1
            access.end()
            for observe in self._state.observers:
                observe(access)
