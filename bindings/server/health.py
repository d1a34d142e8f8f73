"""/health and /ready: whether the process lives, and whether it answers requests. Open to everybody."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel

from alorakit.bindings.server.openapi import ERRORS
from alorakit.bindings.server.state import ServerState, state_of

router = APIRouter()


class Health(BaseModel):
    """How the server is."""

    status: Literal["ok"] = "ok"


@router.get("/health", responses=ERRORS, tags=["health"])
async def health() -> Health:
    """The process lives."""
    return Health()


@router.get("/ready", responses=ERRORS, tags=["health"])
async def ready(state: Annotated[ServerState, Depends(state_of)]) -> Health:
    """The model is loaded and requests are answered; else 503 says why not."""
    state.serving()
    return Health()
