"""The page at ``/``: the files of the folder ``page`` as they are, under a policy that lets nothing else in."""

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import Response

FOLDER = Path(__file__).with_name("page")
MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
# No inline script or style, nothing from elsewhere, and no place in another page's frame.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    # A browser keeps the files and asks each time whether they have changed, as they do with a new version.
    "cache-control": "no-cache",
}

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True)
class _File:
    body: bytes
    media_type: str
    etag: str


@router.api_route("/", methods=["GET", "HEAD"])
async def index(request: Request) -> Response:
    """The page."""
    return _answer(request, "index.html")


@router.api_route("/page.{rest}", methods=["GET", "HEAD"])
async def part(request: Request, rest: str) -> Response:
    """A style sheet or script of the page.

    Raises:
        HTTPException: 404: the page has no such file.
    """
    return _answer(request, f"page.{rest}")


def _answer(request: Request, name: str) -> Response:
    if (file := _files().get(name)) is None:
        raise HTTPException(404)
    headers = {**HEADERS, "etag": file.etag}
    known = (tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(","))
    if file.etag in known:
        return Response(status_code=304, headers=headers)
    return Response(file.body, media_type=file.media_type, headers=headers)


@cache
def _files() -> dict[str, _File]:
    found = {}
    for path in sorted(FOLDER.iterdir()):
        if (media_type := MEDIA_TYPES.get(path.suffix)) is not None:
            body = path.read_bytes()
            found[path.name] = _File(body, media_type, f'"{hashlib.sha256(body).hexdigest()[:32]}"')
    return found
