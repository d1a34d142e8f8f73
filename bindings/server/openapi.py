"""The OpenAPI document: what FastAPI derives, with this server's errors and keys in it."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

import alorakit


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """An error, as OpenAI's interface has it."""

    error: ErrorDetail


# Any status that is not described otherwise; a route passes it as its ``responses``.
ERRORS: dict[int | str, dict[str, Any]] = {"default": {"model": ErrorBody, "description": "An error"}}


def describe(app: FastAPI) -> dict[str, Any]:
    """The application's OpenAPI document, made once; /v1 and /metrics take a key."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=alorakit.__version__, routes=app.routes)
        schemes = document.setdefault("components", {}).setdefault("securitySchemes", {})
        schemes["key"] = {"type": "http", "scheme": "bearer"}
        for path, operations in document["paths"].items():
            for operation in operations.values():
                if path.startswith("/v1/") or path == "/metrics":
                    operation["security"] = [{"key": []}, {}]
        app.openapi_schema = document
    return app.openapi_schema
