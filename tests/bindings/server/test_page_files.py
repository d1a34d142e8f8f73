"""The page's files, as they are served and as they lie there; no browser is needed."""

import asyncio
import re
import tomllib
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest

from alorakit.bindings.server import ServerConfig, create_app
from alorakit.bindings.server.page import FOLDER

FILES = sorted(path.name for path in FOLDER.iterdir())
SCRIPTS = {name: (FOLDER / name).read_text(encoding="utf-8") for name in FILES if name.endswith(".js")}
HTML = (FOLDER / "index.html").read_text(encoding="utf-8")
POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "connect-src": "'self'",
    "img-src": "'self' data:",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.all: list[tuple[str, dict[str, str | None]]] = []
        self.feed(HTML)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.all.append((tag, dict(attrs)))


def asked(ask: Callable[[httpx.AsyncClient], Any], **settings: Any) -> Any:
    async def run() -> Any:
        transport = httpx.ASGITransport(app=create_app(None, ServerConfig(**settings)))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            return await ask(http)

    return asyncio.run(run())


def path_of(name: str) -> str:
    return "/" if name == "index.html" else f"/{name}"


@pytest.mark.parametrize("name", FILES)
def test_served_as_it_lies_there(name: str) -> None:
    answer: httpx.Response = asked(lambda http: http.get(path_of(name)))
    assert (answer.status_code, answer.content) == (200, (FOLDER / name).read_bytes())
    media = {"html": "text/html", "css": "text/css", "js": "text/javascript"}[name.rpartition(".")[2]]
    assert answer.headers["content-type"] == f"{media}; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-cache"
    directives = [part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";")]
    assert dict(directives) == POLICY
    assert "access-control-allow-origin" not in answer.headers


def test_served_without_a_key() -> None:
    assert asked(lambda http: http.get("/"), api_keys=("secret",)).status_code == 200
    assert asked(lambda http: http.get("/page.api.js"), api_keys=("secret",)).status_code == 200


def test_kept_by_the_browser_until_it_changes() -> None:
    async def ask(http: httpx.AsyncClient) -> None:
        first = await http.get("/page.css")
        tag = first.headers["etag"]
        for known in (tag, f"W/{tag}", f'"other", {tag}'):
            again = await http.get("/page.css", headers={"if-none-match": known})
            assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
            assert again.headers["content-security-policy"] == first.headers["content-security-policy"]
        assert (await http.get("/page.css", headers={"if-none-match": '"other"'})).status_code == 200
        assert (await http.get("/page.js")).headers["etag"] != tag

    asked(ask)


def test_head_has_the_headers_alone() -> None:
    async def ask(http: httpx.AsyncClient) -> None:
        head = await http.head("/")
        assert (head.status_code, head.headers["content-length"]) == (200, str(len(HTML.encode())))

    asked(ask)


@pytest.mark.parametrize(
    "path", ["/page.py", "/page.nothing.js", "/page.%2e%2e/app.py", "/page./../app.py", "/page.js/"]
)
def test_nothing_else_is_served(path: str) -> None:
    assert asked(lambda http: http.get(path)).status_code == 404


def test_a_wheel_holds_every_file() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8"))
    [pattern] = project["tool"]["setuptools"]["package-data"]["alorakit.bindings.server"]
    assert sorted(path.name for path in FOLDER.parent.glob(pattern)) == FILES


def test_not_in_the_openapi_document() -> None:
    assert not {"/", "/page.{rest}"} & set(asked(lambda http: http.get("/openapi.json")).json()["paths"])


@pytest.mark.parametrize("name", FILES)
def test_no_address_outside(name: str) -> None:
    text = (FOLDER / name).read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")  # a name, not fetched
    assert re.findall(r"(?:[a-z]+:)?//[\w.]+\.\w+|@import|url\(", text) == []


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_make_no_code_and_no_html_of_text(name: str) -> None:
    forbidden = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|\bFunction\(|srcdoc|DOMParser|cssText"
    assert re.findall(forbidden, SCRIPTS[name]) == []


def test_no_inline_script_style_or_handler() -> None:
    for tag, attributes in Tags().all:
        assert tag != "style"
        assert tag != "script" or attributes.get("src")
        assert not [name for name in attributes if name == "style" or name.startswith("on")]


def test_every_id_that_a_script_names_is_there_once() -> None:
    ids = [attributes["id"] for _, attributes in Tags().all if "id" in attributes]
    assert len(ids) == len(set(ids))
    named = {name for script in SCRIPTS.values() for name in re.findall(r'byId\("([^"]+)"\)', script)}
    assert len(named) > 10
    assert named <= set(ids)


def test_every_class_of_the_style_sheet_is_used() -> None:
    styles = re.sub(
        r"/\*.*?\*/",
        "",
        "".join((FOLDER / name).read_text(encoding="utf-8") for name in FILES if name.endswith(".css")),
        flags=re.DOTALL,
    )
    selectors = " ".join(re.findall(r"([^{}]+)\{", styles))
    for name in set(re.findall(r"\.([a-z][\w-]*)", selectors)):
        assert re.search(rf"\b{name}\b", HTML + "".join(SCRIPTS.values())), name


def test_every_module_is_asked_for_at_once() -> None:
    preloaded = {a["href"] for tag, a in Tags().all if tag == "link" and a["rel"] == "modulepreload"}
    assert preloaded == {f"/{name}" for name in SCRIPTS if name != "page.js"}


def test_every_field_has_a_label() -> None:
    labelled = {attributes["for"] for tag, attributes in Tags().all if tag == "label"}
    fields = {attributes["id"] for tag, attributes in Tags().all if tag in ("input", "textarea")}
    assert fields and fields == labelled
