"""/metrics: the engine's statistics and the server's own, in a registry of the application's own."""

from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from alorakit.bindings.server.access import Access
from alorakit.bindings.server.openapi import ERRORS
from alorakit.bindings.server.state import ServerState

router = APIRouter()

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_UNKNOWN = "unmatched"  # paths that no route has: a label of each would let strangers fill the memory


class ServerMetrics:
    """Counts requests; :meth:`text` is what Prometheus reads."""

    def __init__(self, state: ServerState) -> None:
        """Observe ``state``'s requests from now on."""
        self._state, self._engine_registered = state, False
        self._registry = registry = CollectorRegistry(auto_describe=False)
        self._requests = Counter(
            "alorakit_http_requests",
            "Requests that were answered; status 0: the client had gone before.",
            ("route", "status"),
            registry=registry,
        )
        self._first = Histogram(
            "alorakit_http_first_token_seconds",
            "Time from a request to its answer's first token.",
            ("route",),
            registry=registry,
            buckets=_SECONDS,
        )
        self._total = Histogram(
            "alorakit_http_request_seconds",
            "Time from a request to its answer's end.",
            ("route",),
            registry=registry,
            buckets=_SECONDS,
        )
        in_flight = Gauge("alorakit_http_in_flight", "Requests that are being answered.", registry=registry)
        in_flight.set_function(lambda: state.in_flight)
        ready = Gauge("alorakit_ready", "Whether requests are answered.", registry=registry)
        ready.set_function(lambda: float(state.ready))
        state.observers.append(self._observe)

    def text(self) -> bytes:
        """Every metric in Prometheus' text format; the engine's once it is loaded."""
        if not self._engine_registered and self._state.engine is not None:
            from alorakit.engine.metrics import register_metrics  # torch comes with it, and is here by now

            register_metrics(self._state.engine, self._registry)
            self._engine_registered = True
        return generate_latest(self._registry)

    def _observe(self, access: Access) -> None:
        route = access.route or _UNKNOWN
        self._requests.labels(route, str(access.status or 0)).inc()
        self._total.labels(route).observe(access.total_s)
        if access.first_s is not None:
            self._first.labels(route).observe(access.first_s)


@router.get("/metrics", responses=ERRORS, tags=["health"], response_class=Response)
async def metrics(request: Request) -> Response:
    """Statistics for Prometheus."""
    found: ServerMetrics = request.app.state.metrics
    return Response(found.text(), media_type=CONTENT_TYPE_LATEST)
