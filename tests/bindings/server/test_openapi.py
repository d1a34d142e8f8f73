import asyncio
from collections.abc import Iterator
from typing import Any

import httpx

from alorakit.bindings.server import ServerConfig, create_app
from tests.bindings.server.running import Client


def document() -> dict[str, Any]:
    async def ask() -> Any:
        transport = httpx.ASGITransport(app=create_app(None, ServerConfig()))
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as http:
            return (await http.get("/openapi.json")).json()

    found: dict[str, Any] = asyncio.run(ask())
    return found


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "$ref":
                yield value
            else:
                yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def test_every_operation_says_what_it_takes_and_gives() -> None:
    found = document()
    schemas = found["components"]["schemas"]
    assert found["openapi"].startswith("3.1")
    assert {reference.removeprefix("#/components/schemas/") for reference in references(found)} <= set(schemas)
    assert not {"HTTPValidationError", "ValidationError"} & set(schemas)
    assert {"/v1/chat/completions", "/v1/completions", "/v1/models", "/v1/models/{model_id}"} <= set(found["paths"])
    ids = []
    for path, operations in found["paths"].items():
        for method, operation in operations.items():
            ids.append(operation["operationId"])
            assert "default" in operation["responses"] and "422" not in operation["responses"], (path, method)
            assert operation["responses"]["default"]["content"]["application/json"]["schema"]["$ref"].endswith(
                "/ErrorBody"
            )
            assert ("security" in operation) is (path.startswith("/v1/") or path == "/metrics")
            assert ("requestBody" in operation) is (method in ("post", "put", "patch"))
    assert len(ids) == len(set(ids))


def test_requests_are_closed_and_answers_whole() -> None:
    schemas = document()["components"]["schemas"]
    for name in ("ChatRequest", "CompletionRequest", "ChatMessage", "StreamOptions", "Tool", "Function"):
        assert schemas[name]["additionalProperties"] is False
    assert set(schemas["ChatRequest"]["required"]) == {"model", "messages"}
    assert set(schemas["CompletionRequest"]["required"]) == {"model", "prompt"}
    assert "tool_calls" not in schemas["AnswerMessage"]["required"]


def test_what_is_documented_is_what_is_read(client: Client) -> None:
    values = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "max_tokens": 2, "n": 1, "stop": "x"}
    described = document()

    async def ask() -> None:
        async with client() as http:
            for field, schema in described["components"]["schemas"]["ChatRequest"]["properties"].items():
                if any(option.get("type") == "null" for option in schema.get("anyOf", ())):
                    answer = await http.post("/v1/chat/completions", json={**values, field: None})
                    assert answer.status_code == 200, (field, answer.text)

    asyncio.run(ask())
