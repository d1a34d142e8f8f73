"""/metrics, /health and /ready, and the log of a server process."""

import asyncio
import json
import logging
from typing import Any

import httpx
import pytest
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from alorakit.bindings.server.access import Access
from alorakit.bindings.server.logs import JsonFormatter
from alorakit.engine.request import Usage
from tests.bindings.server.running import Client


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_requests_are_counted_by_route_and_status(client: Client) -> None:
    async def ask() -> None:
        async with client(served_model_name="tiny") as http:
            body = {"model": "tiny", "prompt": "a", "max_tokens": 3, "ignore_eos": True}
            for _ in range(2):
                assert (await http.post("/v1/completions", json=body)).status_code == 200
            await http.post("/v1/completions", json=body | {"model": "nobody"})
            for index in range(3):
                await http.get(f"/nothing/{index}")
            await http.get("/v1/models/parts")
            text = (await http.get("/metrics")).text
            found = samples(text)
            requests = "alorakit_http_requests_total"
            assert found[requests, (("route", "/v1/completions"), ("status", "200"))] == 2
            assert found[requests, (("route", "/v1/completions"), ("status", "404"))] == 1
            assert found[requests, (("route", "unmatched"), ("status", "404"))] == 3
            assert found[requests, (("route", "/v1/models/{model_id:path}"), ("status", "200"))] == 1
            assert found["alorakit_http_first_token_seconds_count", (("route", "/v1/completions"),)] == 2
            assert found["alorakit_http_request_seconds_count", (("route", "/v1/completions"),)] == 3
            assert found["alorakit_http_in_flight", ()] == 1
            assert found["alorakit_tokens_decoded_total", ()] == 6
            assert found["alorakit_adapters", ()] == 2

    asyncio.run(ask())


def test_each_application_has_metrics_of_its_own(client: Client) -> None:
    async def ask() -> None:
        for _ in range(2):
            async with client() as http:
                await http.get("/health")
                found = samples((await http.get("/metrics")).text)
                assert found["alorakit_http_requests_total", (("route", "/health"), ("status", "200"))] == 1

    asyncio.run(ask())
    assert not [family.name for family in REGISTRY.collect() if family.name.startswith("alorakit")]


def test_metrics_need_the_key_and_health_does_not(client: Client) -> None:
    async def ask() -> None:
        async with client(api_keys=["k"]) as http:
            codes = [(await http.get(path)).status_code for path in ("/metrics", "/health", "/ready")]
            assert codes == [401, 200, 200]
            assert (await http.get("/metrics", headers={"authorization": "Bearer k"})).status_code == 200

    asyncio.run(ask())


def test_ready_ends_with_the_engines_thread(client: Client) -> None:
    async def ask() -> None:
        async with client() as http:
            assert (await http.get("/ready")).status_code == 200
            http.served.detach()  # type: ignore[attr-defined]
            answer: httpx.Response = await http.get("/ready")
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
            assert (await http.get("/health")).status_code == 200
            assert samples((await http.get("/metrics")).text)["alorakit_ready", ()] == 0

    asyncio.run(ask())


def test_ready_while_draining(client: Client) -> None:
    async def ask() -> None:
        async with client() as http:
            http.app.state.alorakit.draining = True  # type: ignore[attr-defined]
            answer = await http.get("/ready")
            assert (answer.status_code, answer.headers["connection"]) == (503, "close")
            assert (await http.get("/health")).status_code == 200

    asyncio.run(ask())


def test_the_log_is_one_object_a_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "alorakit.server")
    access = Access("req-1", "GET", '/a\n"b', "127.0.0.1", status=200, usage=Usage(3, 2, 1))
    access.end()
    logging.getLogger("alorakit").warning("two\nlines")
    try:
        raise ValueError("what")
    except ValueError:
        logging.getLogger("alorakit").exception("failed")
    lines = [JsonFormatter().format(record) for record in caplog.records]
    assert all("\n" not in line for line in lines)
    request, warning, failure = (json.loads(line) for line in lines)
    assert (request["event"], request["path"], request["cached_tokens"]) == ("request", '/a\n"b', 2)
    assert (request["level"], request["logger"]) == ("info", "alorakit.server")
    assert (warning["event"], warning["message"], warning["level"]) == ("log", "two\nlines", "warning")
    assert "ValueError: what" in failure["traceback"]
    assert_times([request, warning, failure])


def assert_times(found: list[dict[str, Any]]) -> None:
    times = [each["time"] for each in found]
    assert times == sorted(times) and all(each.endswith("+00:00") for each in times)
