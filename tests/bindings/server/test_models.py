import asyncio

import httpx

from alorakit.bindings.server import ServerConfig, create_app
from tests.bindings.server.running import Client


def test_models_are_the_base_and_the_adapters(client: Client) -> None:
    async def ask() -> None:
        async with client(served_model_name="tiny") as http:
            listed = (await http.get("/v1/models")).json()
            assert [(model["id"], model["parent"]) for model in listed["data"]] == [
                ("tiny", None), ("parts", "tiny"), ("checker", "tiny"),
            ]  # fmt: skip
            assert (await http.get("/v1/models/parts")).json() == listed["data"][1]
            missing = await http.get("/v1/models/org/other")
            assert missing.status_code == 404
            assert missing.json()["error"]["code"] == "model_not_found"
            assert missing.headers["x-request-id"]

    asyncio.run(ask())


def test_health_without_a_model() -> None:
    async def ask() -> None:
        transport = httpx.ASGITransport(app=create_app(None, ServerConfig()))
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as http:
            assert (await http.get("/health")).status_code == 200
            for path in ("/ready", "/v1/models"):
                answer = await http.get(path)
                assert answer.status_code == 503
                assert "being loaded" in answer.json()["error"]["message"]
                assert int(answer.headers["retry-after"]) >= 1

    asyncio.run(ask())


def test_unknown_path(client: Client) -> None:
    async def ask() -> None:
        async with client() as http:
            answer = await http.get("/v2/nothing")
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
            answer = await http.delete("/v1/models")
            assert (answer.status_code, answer.json()["error"]["code"]) == (405, "method_not_allowed")
            assert answer.headers["allow"] == "GET"
            assert (await http.options("/v1/adapters")).headers["allow"] == "GET, POST"

    asyncio.run(ask())
