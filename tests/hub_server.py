"""A server on loopback that speaks as much of the Hugging Face Hub's API as its client uses for models.

Repositories are kept in memory: branches, and commits with all their files. What is committed as a large file must have
been uploaded before, byte for byte. A :class:`~tests.hub_state.Fault` makes requests fail: by a status, or by a
connection that breaks before the request is done, or after.
"""

import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.hub_state import TOKENS, Hub, Refused

_NAME = r"(?P<repo_id>[\w.-]+/[\w.-]+)"
_ROUTES: list[tuple[str, Callable[..., Any]]] = [
    (r"GET /api/whoami-v2", Hub.whoami),
    (r"POST /api/repos/create", Hub.create),
    (r"POST /api/validate-yaml", Hub.validate),
    (rf"GET /api/models/{_NAME}", Hub.info),
    (rf"GET /api/models/{_NAME}/revision/(?P<revision>[^/]+)", Hub.info),
    (rf"POST /api/models/{_NAME}/branch/(?P<branch>[^/]+)", Hub.branch),
    (rf"POST /api/models/{_NAME}/preupload/(?P<revision>[^/]+)", Hub.preupload),
    (rf"POST /{_NAME}\.git/info/lfs/objects/batch", Hub.batch),
    (r"PUT /lfs/(?P<oid>\w+)", Hub.put),
    (r"POST /verify", Hub.verify),
    (rf"POST /api/models/{_NAME}/commit/(?P<revision>[^/]+)", Hub.commit),
    (rf"POST /api/models/{_NAME}/paths-info/(?P<revision>[^/]+)", Hub.paths),
    (rf"GET /api/models/{_NAME}/tree/(?P<revision>[^/]+)", Hub.tree),
    (rf"(?:GET|HEAD) /{_NAME}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", Hub.resolve),
]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def answer(self) -> None:
        request = f"{self.command} {urlsplit(self.path).path}"
        self.hub.requests.append(request)
        fault = next((fault for fault in self.hub.faults if fault.hits(request)), None)
        if fault is not None and fault.kind == "cut":
            self.rfile.read(int(self.headers.get("Content-Length") or 0) // 2)
            return self._cut()
        body = self._body()
        try:
            if fault is not None and isinstance(fault.kind, int):
                raise Refused(fault.kind, fault.error)
            found = self._route(request, body)
        except Refused as refused:
            headers = {"X-Error-Code": refused.code} if refused.code else {}
            headers["X-Error-Message"] = refused.error
            return self._send(refused.status, json.dumps(refused.body).encode(), headers)
        content, headers = found if isinstance(found, tuple) else (json.dumps(found).encode(), {})
        if fault is not None and fault.kind == "half":
            self._send(200, content, headers, len(content) // 2)
        if fault is not None:
            return self._cut()
        return self._send(200, content, headers)

    do_GET = do_HEAD = do_POST = do_PUT = answer

    def _route(self, request: str, body: bytes) -> Any:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in TOKENS:
            raise Refused(401, "Invalid credentials in Authorization header")
        for pattern, action in _ROUTES:
            if found := re.fullmatch(pattern, request):
                parts = {name: unquote(value) for name, value in found.groupdict().items()}
                return action(self.hub, TOKENS.get(token), body, **parts)
        raise Refused(404, f"no route for {request}")

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _send(self, status: int, content: bytes, headers: dict[str, str], sent: int | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[:sent])
            self.wfile.flush()

    def _cut(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def serve() -> Iterator[Hub]:
    """A hub on a free port of loopback, until the end of the block."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        hub.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
