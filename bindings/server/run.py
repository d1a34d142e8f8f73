"""A server's life: it listens, loads the model, serves, and ends without dropping what it has accepted.

listening -> loading (503) -> serving -> draining (503 for new requests) -> aborting what is left -> ended
"""

import asyncio
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn
from fastapi import FastAPI

from alorakit.bindings.server.app import create_app
from alorakit.bindings.server.config import ServerConfig
from alorakit.bindings.server.protocol import MAX_HEAD_BYTES, limited_protocol
from alorakit.bindings.server.state import ServerState
from alorakit.engine import SPIN_TURNS
from alorakit.engine.config import EngineConfig
from alorakit.engine.errors import ConfigError
from alorakit.engine.pretrained import resolve_adapter

if TYPE_CHECKING:
    from alorakit.engine.async_engine import AsyncEngine

log = logging.getLogger("alorakit.server")

KEEP_ALIVE_S = 30
BACKLOG = 1024
OWN_FILES = 256  # beside connections: the model's, libraries, adapters that are being loaded
# After the drain limit: what ending the requests that are left, and sending their clients an error, may take.
ABORT_S = 3.0
POLL_S = 0.02
_SPIN_TURNS = "500"

OnReady = Callable[[str, "AsyncEngine"], None]


def serve(
    model: str | Path,
    config: ServerConfig | None = None,
    adapters: Mapping[str, str] | None = None,
    on_ready: OnReady = lambda url, engine: None,
    **settings: object,
) -> None:
    """Serve a model until SIGTERM or SIGINT; for the main thread of a process that does nothing else.

    The socket answers at once: while the model is loaded, ``/health`` by 200 and everything else by 503. The first
    signal drains (see ``ServerConfig.drain_s``), a second one ends the process on the spot with exit code 128 + signal.

    Args:
        model: Hub id or folder.
        config: The server's settings; None: the defaults.
        adapters: Adapters to begin with: names and what ``resolve_adapter`` takes.
        on_ready: Called with the server's address and the engine when requests are answered.
        **settings: Fields of :class:`~alorakit.EngineConfig`; ``reserve_cache`` is True unless it is given, so that
            the server's memory does not grow as its cache fills.

    Raises:
        ConfigError: The address cannot be listened on, or a setting is out of range.
        AlorakitError: The model or an adapter cannot be loaded.
        TypeError: A keyword is no field of EngineConfig.
    """
    config = config or ServerConfig()
    settings.setdefault("reserve_cache", True)
    EngineConfig(**settings)  # type: ignore[arg-type]  # what is wrong with them is said before anybody waits
    listener = listen(config.host, config.port)
    _allow_files(config.max_connections)
    _spin_less()
    app = create_app(None, config)
    server = Server(app, config, lambda: _load(model, adapters or {}, settings), on_ready, address(listener))
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    server.run(sockets=[listener])
    server.finish()


def _allow_files(max_connections: int) -> None:
    """Raise the limit of open files, so that all connections do not keep the server from opening files of its own."""
    try:
        import resource
    except ImportError:  # no such limit on Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max_connections + OWN_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        wanted = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        if wanted < max_connections + OWN_FILES:
            log.warning("this process may open %d files; max_connections=%d needs more", wanted, max_connections)


def _spin_less() -> None:
    """Let libgomp's threads sleep sooner between parallel regions, unless somebody else has said how they shall wait.

    The event loop and the clients want the cores, too: beside a busy process a step takes two thirds of the time that
    it takes with the engine's own number, and on an idle machine no more where the model runs in C (see ``engine``).
    """
    if "torch" not in sys.modules and os.environ.get("GOMP_SPINCOUNT") == SPIN_TURNS:
        os.environ["GOMP_SPINCOUNT"] = _SPIN_TURNS


def listen(host: str, port: int) -> socket.socket:
    """A socket that is bound; nobody is answered before it is served.

    Raises:
        ConfigError: The address is taken, not this machine's, or not allowed.
    """
    try:
        [(family, kind, protocol, _, where), *_] = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        listener = socket.socket(family, kind, protocol)
        try:
            # A server that was killed may be started again at once, while its old connections are still known.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(where)
            listener.listen(BACKLOG)
        except BaseException:
            listener.close()
            raise
    except (OSError, UnicodeError) as exc:
        reason = getattr(exc, "strerror", None) or exc
        raise ConfigError(
            f"host={host!r} port={port} cannot be listened on ({reason}); end what listens there, or use another --port"
        ) from exc
    return listener


def address(listener: socket.socket) -> str:
    """URL of a bound socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Server(uvicorn.Server):
    """uvicorn's server, with loading at the beginning and draining at the end."""

    def __init__(
        self,
        app: FastAPI,
        config: ServerConfig,
        load: Callable[[], "AsyncEngine"],
        on_ready: OnReady,
        url: str,
    ) -> None:
        """Serve ``app``, with the engine that ``load`` returns: it is called in a thread of its own."""
        super().__init__(
            uvicorn.Config(
                app,
                http=limited_protocol(config.read_timeout_s, config.max_connections),
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                backlog=BACKLOG,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=1,
                h11_max_incomplete_event_size=MAX_HEAD_BYTES,
            )
        )
        self._state: ServerState = app.state.alorakit
        self._drain_s, self._load, self._on_ready, self._url = config.drain_s, load, on_ready, url
        self._ending = asyncio.Event()
        self._loader: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._watchdog: threading.Timer | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Note a signal. The second one ends the process: whoever sends it does not want to wait for a step."""
        if self._ending.is_set():
            os._exit(128 + sig)
        self._ending.set()  # uvicorn's tick, ten times a second, wakes whoever waits for it

    async def main_loop(self) -> None:
        """Serve until a signal has come, or the model cannot be loaded; then drain."""
        ticking = asyncio.create_task(super().main_loop())
        self._loader = threading.Thread(target=self._load_engine, args=[asyncio.get_running_loop()], daemon=True)
        self._loader.start()
        await self._ending.wait()
        self._state.draining = True
        if self._failure is None:
            await self._drain()
        self.should_exit = True
        await ticking

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve to the end, that of threads at work included; a process that goes on then is not ended any more."""
        super().run(sockets)
        if self._watchdog is not None:
            self._watchdog.cancel()

    def finish(self) -> None:
        """What is left to do when nobody is served any more.

        Raises:
            BaseException: What loading the model failed with.
        """
        if self._failure is not None:
            raise self._failure
        if self._loader is not None and self._loader.is_alive():
            # The interpreter cannot end while a thread is inside torch; nothing was accepted that could be lost.
            _exit(0)

    async def _drain(self) -> None:
        """Let running requests end; after the limit end them, so that each gets its error."""
        # Whatever hangs (a step, a download, a client that does not read), the process is gone in time.
        self._watchdog = threading.Timer(self._drain_s + ABORT_S + 1, _give_up)
        self._watchdog.daemon = True
        self._watchdog.start()
        started = time.perf_counter()
        await self._idle(self._drain_s)
        left, engine = self._state.in_flight, self._state.engine
        if engine is not None:
            await engine.close()
        if left:
            log.warning("%d requests were given up after drain_s=%g seconds", left, self._drain_s)
            await self._idle(ABORT_S - 1)
        log.info("drained in %.2f seconds", time.perf_counter() - started)

    async def _idle(self, seconds: float) -> None:
        """Wait until nobody is being answered, at most so long."""
        until = time.perf_counter() + seconds
        while self._state.in_flight and time.perf_counter() < until:
            await asyncio.sleep(POLL_S)

    def _load_engine(self, event_loop: asyncio.AbstractEventLoop) -> None:
        try:
            engine = self._load()
        except BaseException as exc:
            self._state.load_error = str(exc)
            self._failure = exc
            _tell(event_loop, self._ending.set)
        else:
            _tell(event_loop, self._loaded, engine)

    def _loaded(self, engine: "AsyncEngine") -> None:
        self._state.engine = engine
        if not self._state.draining:
            self._on_ready(self._url, engine)


def _tell(event_loop: asyncio.AbstractEventLoop, function: Callable[..., None], *arguments: object) -> None:
    """Call a function in the event loop, unless that was closed by a signal meanwhile."""
    with suppress(RuntimeError):
        event_loop.call_soon_threadsafe(function, *arguments)


def _load(model: str | Path, adapters: Mapping[str, str], settings: Mapping[str, object]) -> "AsyncEngine":
    from alorakit.engine.async_engine import AsyncEngine  # and torch, which takes seconds: the server answers already

    folders = {name: resolve_adapter(place) for name, place in adapters.items()}
    engine = AsyncEngine.from_pretrained(model, **settings)
    try:
        for name, folder in folders.items():
            engine.engine.add_adapter(name, folder)
    except BaseException:
        engine.detach()
        engine.engine.close()
        raise
    return engine


def _give_up() -> None:
    log.error("the server did not end within its limit; requests may have been cut off")
    _exit(0)


def _exit(code: int) -> None:
    logging.shutdown()
    sys.stdout.flush()
    os._exit(code)
