"""/v1/adapters: which adapters there are; loading and unloading them needs the admin key."""

import asyncio
import hmac
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from fastapi import APIRouter, Depends, Request, Response
from pydantic import Field

from alorakit.bindings.server.errors import HttpError
from alorakit.bindings.server.folders import allowed_folder, allowed_repo
from alorakit.bindings.server.guard import bearer
from alorakit.bindings.server.openapi import ERRORS
from alorakit.bindings.server.schemas import Body
from alorakit.bindings.server.state import ServerState, state_of
from alorakit.engine.errors import AdapterError, AdapterNotFoundError

if TYPE_CHECKING:
    from alorakit.engine.adapters import AdapterInfo

router = APIRouter()

MAX_NAME_CHARS = 200
MAX_PATH_CHARS = 4096


class AdapterObject(Body):
    """A loaded adapter.

    Attributes:
        name: What requests call it.
        kind: ``"alora"`` or ``"lora"``.
        rank: Its largest rank.
        targets: Adapted linear layers.
        invocation_tokens: The aLoRA's invocation, or null.
        digest: SHA-256 of its weights and configuration.
        labels: What its checks answer; empty for a foreign adapter or one that answers with a text.
        base_model: The base model that its configuration names.
    """

    object: Literal["adapter"] = "adapter"
    name: str
    kind: Literal["alora", "lora"]
    rank: int
    targets: list[str]
    invocation_tokens: list[int] | None
    digest: str
    labels: list[str]
    base_model: str


class AdapterList(Body):
    """All of them."""

    object: Literal["list"] = "list"
    data: list[AdapterObject]


class LoadAdapter(Body):
    """What to load, and as what.

    Attributes:
        name: What requests will call it.
        path: Folder below one that the server allows.
        repo: Hub repository that the server allows: ``org/name``, with the adapter's folder below it if it has one.
        revision: The repository's branch, tag or commit.
        replace: Take the place of an adapter of that name; running requests keep the one they began with.
        layout: Check layout of a folder that has no ``alorakit.json``.
    """

    name: str = Field(min_length=1, max_length=MAX_NAME_CHARS)
    path: str | None = Field(None, min_length=1, max_length=MAX_PATH_CHARS)
    repo: str | None = Field(None, min_length=1, max_length=MAX_PATH_CHARS)
    revision: str | None = Field(None, min_length=1, max_length=MAX_NAME_CHARS)
    replace: bool = False
    layout: Literal["chat", "mellea"] | None = None


def require_admin(request: Request, state: Annotated[ServerState, Depends(state_of)]) -> None:
    """See that a request carries the admin key.

    Raises:
        HttpError: 403: the server has none; 401: it is missing or another.
    """
    key = state.config.admin_key
    if key is None:
        raise HttpError(
            403, "adapters are not loaded or unloaded over HTTP here; start the server with ALORAKIT_ADMIN_KEY set"
        )
    if not hmac.compare_digest(bearer(request.headers).encode(), key.encode()):
        raise HttpError(
            401,
            "the admin key is missing or wrong; send Authorization: Bearer KEY with the server's ALORAKIT_ADMIN_KEY",
            headers={"www-authenticate": "Bearer"},
        )


@router.get("/v1/adapters", responses=ERRORS, tags=["adapters"])
async def list_adapters(state: Annotated[ServerState, Depends(state_of)]) -> AdapterList:
    """List the adapters."""
    return AdapterList(data=[_described(info) for info in state.serving().adapters.values()])


@router.post(
    "/v1/adapters", responses=ERRORS, tags=["adapters"], status_code=201, dependencies=[Depends(require_admin)]
)
async def load_adapter(wanted: LoadAdapter, state: Annotated[ServerState, Depends(state_of)]) -> AdapterObject:
    """Load an adapter, whole or not at all; what runs goes on meanwhile."""
    engine = state.serving()
    _check(wanted, state.model_id)
    try:
        folder = await asyncio.to_thread(_find, wanted, state)
        return _described(await engine.add_adapter(wanted.name, folder, wanted.replace, wanted.layout))
    except AdapterError as exc:
        raise HttpError(400, str(exc), param="repo" if wanted.path is None else "path") from exc


@router.delete(
    "/v1/adapters/{name:path}",
    responses=ERRORS,
    tags=["adapters"],
    status_code=204,
    dependencies=[Depends(require_admin)],
)
async def unload_adapter(name: str, state: Annotated[ServerState, Depends(state_of)]) -> Response:
    """Forget an adapter; requests that run keep it to their end."""
    try:
        await state.serving().remove_adapter(name)
    except AdapterNotFoundError as exc:
        raise HttpError(
            404, f"no adapter is named {name!r:.200}; GET /v1/adapters lists them", "name", "adapter_not_found"
        ) from exc
    return Response(status_code=204)


def _check(wanted: LoadAdapter, model_id: str) -> None:
    """Refuse what contradicts itself, and names that no request could use."""
    if (wanted.path is None) == (wanted.repo is None):
        raise HttpError(400, "give one of path and repo", param="path")
    if wanted.revision is not None and wanted.repo is None:
        raise HttpError(400, "revision belongs to a repo, and there is none; leave it out", param="revision")
    if not wanted.name.isprintable() or wanted.name.strip() != wanted.name:
        raise HttpError(400, f"name={wanted.name!r} must be printable, with no space around it", param="name")
    if wanted.name == model_id:
        raise HttpError(400, f"name={wanted.name!r} is the base model's; choose another", param="name")


def _find(wanted: LoadAdapter, state: ServerState) -> Path:
    if wanted.path is not None:
        return allowed_folder(wanted.path, state.config.adapter_folders)
    assert wanted.repo is not None, "_check has seen to that"
    return allowed_repo(wanted.repo, wanted.revision, state.config.adapter_repos)


def _described(info: "AdapterInfo") -> AdapterObject:
    return AdapterObject(
        name=info.name,
        kind="lora" if info.invocation_tokens is None else "alora",
        rank=info.rank,
        targets=list(info.targets),
        invocation_tokens=None if info.invocation_tokens is None else list(info.invocation_tokens),
        digest=info.digest,
        labels=[] if info.manifest is None else list(info.manifest.labels),
        base_model=info.base_model,
    )
