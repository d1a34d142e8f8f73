"""/v1/models: the base model and each adapter, as vLLM lists them."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel

from alorakit.bindings.server.openapi import ERRORS
from alorakit.bindings.server.state import ServerState, state_of

router = APIRouter()


class Model(BaseModel):
    """A model that requests may name."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["alorakit"] = "alorakit"
    root: str
    parent: str | None


class ModelList(BaseModel):
    """All of them."""

    object: Literal["list"] = "list"
    data: list[Model]


def listed(state: ServerState) -> list[Model]:
    """The base model, then the adapters."""
    base = state.model_id
    found = [Model(id=base, created=state.created, root=state.serving().model_name, parent=None)]
    return found + [
        Model(id=name, created=state.created, root=info.path.name, parent=base)
        for name, info in state.serving().adapters.items()
    ]


@router.get("/v1/models", responses=ERRORS, tags=["models"])
async def list_models(state: Annotated[ServerState, Depends(state_of)]) -> ModelList:
    """List the base model and the adapters."""
    return ModelList(data=listed(state))


@router.get("/v1/models/{model_id:path}", responses=ERRORS, tags=["models"])
async def get_model(model_id: str, state: Annotated[ServerState, Depends(state_of)]) -> Model:
    """One model."""
    state.adapter_of(model_id)
    return next(model for model in listed(state) if model.id == model_id)
