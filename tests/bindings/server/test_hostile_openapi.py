"""Requests drawn from the OpenAPI document, valid and broken: none is a 5xx, and every answer is as documented."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import (
    content_type_conformance,
    not_a_server_error,
    response_schema_conformance,
    status_code_conformance,
)

from alorakit import Engine
from alorakit.bindings.server import ServerConfig, create_app
from tests.bindings.server.running import Running, running

# For a long run: HOSTILE_EXAMPLES=1000.
EXAMPLES = int(os.environ.get("HOSTILE_EXAMPLES", "6"))
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
SCHEMA = schemathesis.openapi.from_dict(create_app(None, ServerConfig(api_keys=())).openapi())
OPERATIONS: dict[str, Any] = {op.label: op for found in SCHEMA.get_all_operations() for op in [found.ok()]}


@pytest.fixture(scope="module")
def server(served_folder: Path) -> Iterator[Running]:
    with Engine.from_pretrained(served_folder / "model", dtype="float32", device="cpu", block_size=16) as engine:
        engine.add_adapter("parts", served_folder / "parts")
        limits = {"max_new_tokens": 3, "default_max_tokens": 2}
        with running(engine, admin_key="secret", adapter_folders=[str(served_folder)], **limits) as started:
            yield started
        engine.check_integrity()


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as made:
        made.headers["authorization"] = "Bearer secret"
        yield made


def test_every_operation_is_drawn_from() -> None:
    assert {"POST /v1/chat/completions", "POST /v1/completions", "POST /v1/checks", "POST /v1/score"} <= set(OPERATIONS)
    assert {"POST /v1/adapters", "DELETE /v1/adapters/{name}", "GET /metrics", "GET /health"} <= set(OPERATIONS)


# Any text may be in a path, so only bodies can be broken.
MODES = [
    (label, mode)
    for label, operation in OPERATIONS.items()
    for mode in GenerationMode
    if operation.body or mode is GenerationMode.POSITIVE
]


@pytest.mark.parametrize(("label", "mode"), MODES)
def test_operations(server: Running, session: requests.Session, label: str, mode: GenerationMode) -> None:
    operation = OPERATIONS[label]
    takes_input = bool(operation.body) or bool(operation.path_parameters)

    @settings(
        max_examples=EXAMPLES if takes_input else 1,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        if mode is GenerationMode.POSITIVE and isinstance(case.body, dict) and "model" in case.body:
            case.body["model"] = "tiny"  # any other name is a 404, and nothing else would be read
        answer = case.call(base_url=server.url, session=session)
        case.validate_response(answer, checks=CHECKS)
        assert "x-request-id" in answer.headers

    ask()
    assert session.get(f"{server.url}/ready").status_code == 200
