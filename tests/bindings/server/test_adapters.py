"""/v1/adapters: what is loaded, from where alone, and that what runs does not notice."""

import asyncio
import json
import os
import shutil
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.bindings.server.running import Client

KEY = {"authorization": "Bearer secret"}
Ask = Callable[[httpx.AsyncClient], Awaitable[None]]


@pytest.fixture
def root(tmp_path: Path, served_folder: Path) -> Path:
    """An allowed folder with an adapter in it."""
    shutil.copytree(served_folder / "parts", tmp_path / "root" / "good")
    return tmp_path / "root"


def run(client: Client, ask: Ask, **settings: Any) -> None:
    async def main() -> None:
        async with client(**settings) as http:
            await ask(http)

    asyncio.run(main())


def refused(answer: httpx.Response, status: int, says: str, param: str | None = "path") -> None:
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (status, param), answer.text
    assert says in error["message"]


def names(answer: httpx.Response) -> list[str]:
    return [each["name"] for each in answer.json()["data"]]


def test_load_list_replace_unload(client: Client, root: Path) -> None:
    async def ask(http: httpx.AsyncClient) -> None:
        for path in (str(root / "good"), "good"):
            made = await http.post("/v1/adapters", json={"name": "org/new", "path": path}, headers=KEY)
            assert made.status_code == 201, made.text
            listed = (await http.get("/v1/adapters")).json()["data"]
            assert listed[-1] == made.json()
            assert made.json() | {"digest": "", "base_model": ""} == {
                "object": "adapter", "name": "org/new", "kind": "alora", "rank": 4, "targets": ["q_proj", "v_proj"],
                "invocation_tokens": [301, 17, 302], "digest": "", "labels": ["rod", "pump", "none"], "base_model": "",
            }  # fmt: skip
            assert (await http.get("/v1/models/org/new")).json()["parent"]
            again = await http.post("/v1/adapters", json={"name": "org/new", "path": path}, headers=KEY)
            refused(again, 400, "already registered")
            again = await http.post(
                "/v1/adapters", json={"name": "org/new", "path": path, "replace": True}, headers=KEY
            )
            assert again.status_code == 201
            gone = await http.delete("/v1/adapters/org/new", headers=KEY)
            assert (gone.status_code, gone.content) == (204, b"")
            assert names(await http.get("/v1/adapters")) == ["parts", "checker"]
        refused(await http.delete("/v1/adapters/org/new", headers=KEY), 404, "no adapter is named", "name")

    run(client, ask, admin_key="secret", adapter_folders=[str(root)])


@pytest.mark.parametrize("given", [{}, {"authorization": "Bearer wrong"}, {"authorization": "Basic secret"}])
def test_only_with_the_admin_key(client: Client, root: Path, given: dict[str, str]) -> None:
    async def ask(http: httpx.AsyncClient) -> None:
        refused(await http.post("/v1/adapters", json={"name": "n", "path": "good"}, headers=given), 401, "key", None)
        refused(await http.delete("/v1/adapters/parts", headers=given), 401, "key", None)
        assert names(await http.get("/v1/adapters")) == ["parts", "checker"]

    run(client, ask, admin_key="secret", adapter_folders=[str(root)])


def test_without_an_admin_key_nobody_may(client: Client, root: Path) -> None:
    async def ask(http: httpx.AsyncClient) -> None:
        answer = await http.post("/v1/adapters", json={"name": "n", "path": "good"}, headers=KEY)
        refused(answer, 403, "ALORAKIT_ADMIN_KEY", None)
        refused(await http.delete("/v1/adapters/parts", headers=KEY), 403, "ALORAKIT_ADMIN_KEY", None)

    run(client, ask, adapter_folders=[str(root)])


def test_the_api_key_is_not_the_admin_key(client: Client, root: Path) -> None:
    async def ask(http: httpx.AsyncClient) -> None:
        api = {"authorization": "Bearer client"}
        assert (await http.get("/v1/adapters")).status_code == 401
        assert (await http.get("/v1/adapters", headers=api)).status_code == 200
        assert (await http.post("/v1/adapters", json={"name": "n", "path": "good"}, headers=api)).status_code == 401
        made = await http.post("/v1/adapters", json={"name": "n", "path": "good"}, headers=KEY)
        assert made.status_code == 201, made.text

    run(client, ask, admin_key="secret", api_keys=["client"], adapter_folders=[str(root)])


def test_nothing_outside_the_folders(client: Client, root: Path, served_folder: Path, tmp_path: Path) -> None:
    outside = shutil.copytree(served_folder / "parts", tmp_path / "outside")
    (root / "link").symlink_to(outside)
    (root / "up").symlink_to("..")
    (root / "inside").symlink_to("good")
    shutil.copytree(root / "good", root / "leads")
    for name in ("adapter_config.json", "adapter_model.safetensors", "alorakit.json"):
        folder = shutil.copytree(root / "good", root / f"leads-{name}")
        (folder / name).unlink()
        (folder / name).symlink_to(outside / name)
    (tmp_path / "root-sibling").symlink_to(outside)
    paths = [
        str(outside), "../outside", f"{root}/../outside", f"{root}/good/../../outside", "good/..", "link",
        f"{root}/link",
        "up/outside", f"{root}/up/outside", f"{root}-sibling", "/", "/etc", "/etc/passwd", "/proc/self",
        "leads-alorakit.json", "leads-adapter_config.json", "leads-adapter_model.safetensors", "~", "..", "/nowhere",
    ]  # fmt: skip

    async def ask(http: httpx.AsyncClient) -> None:
        for path in paths:
            answer = await http.post("/v1/adapters", json={"name": "n", "path": path}, headers=KEY)
            if path == "~":  # a name like any other
                refused(answer, 400, "no folder")
            else:
                refused(answer, 403, "adapters may be loaded from" if ".." not in path else "without '..'")
            assert str(tmp_path) not in answer.json()["error"]["message"].replace(repr(path), "")
        assert names(await http.get("/v1/adapters")) == ["parts", "checker"]
        made = await http.post("/v1/adapters", json={"name": "n", "path": "inside"}, headers=KEY)
        assert made.status_code == 201

    run(client, ask, admin_key="secret", adapter_folders=[str(root)])


def test_a_root_may_be_a_link_itself(client: Client, root: Path, tmp_path: Path) -> None:
    (tmp_path / "linked").symlink_to(root)

    async def ask(http: httpx.AsyncClient) -> None:
        for number, path in enumerate((f"{tmp_path}/linked/good", f"{root}/good", "good")):
            made = await http.post("/v1/adapters", json={"name": f"n{number}", "path": path}, headers=KEY)
            assert made.status_code == 201, made.text

    run(client, ask, admin_key="secret", adapter_folders=[str(tmp_path / "linked")])


def test_no_folders_and_no_repositories(client: Client, root: Path) -> None:
    async def ask(http: httpx.AsyncClient) -> None:
        answer = await http.post("/v1/adapters", json={"name": "n", "path": str(root / "good")}, headers=KEY)
        refused(answer, 403, "--adapter-folder")
        for repo in ("org/name", "org/name/folder", "other/x"):
            answer = await http.post("/v1/adapters", json={"name": "n", "repo": repo}, headers=KEY)
            refused(answer, 403, "--adapter-repo", "repo")

    run(client, ask, admin_key="secret")


def test_a_repository_is_never_a_folder(
    client: Client, root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shutil.copytree(root / "good", tmp_path / "org" / "name")
    monkeypatch.chdir(tmp_path)

    async def ask(http: httpx.AsyncClient) -> None:
        answer = await http.post("/v1/adapters", json={"name": "n", "repo": "org/name"}, headers=KEY)
        refused(answer, 400, "no adapter that the Hub has", "repo")  # tests are offline
        for repo in ("org", "..", "org/../name", "/org/name", "org/name/..", "org/name@main", "org2/name", "a/org/x"):
            answer = await http.post("/v1/adapters", json={"name": "n", "repo": repo}, headers=KEY)
            assert answer.status_code in (400, 403), repo
            assert answer.json()["error"]["param"] == "repo"

    run(client, ask, admin_key="secret", adapter_repos=["org/*"])


def cut_header(file: Path) -> None:
    file.write_bytes(struct.pack("<Q", 1 << 60) + file.read_bytes()[8:])


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def misshape(file: Path) -> None:
    save_file({name: tensor[:1].clone() for name, tensor in load_file(file).items()}, file)


def poison(file: Path) -> None:
    tensors = load_file(file)
    next(iter(tensors.values()))[0, 0] = torch.nan
    save_file(tensors, file)


def be_a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def be_a_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


@pytest.mark.parametrize("break_it", [cut_header, truncate, misshape, poison, be_a_folder, be_a_pipe, Path.unlink])
def test_broken_weights_leave_nothing_behind(client: Client, root: Path, break_it: Callable[[Path], object]) -> None:
    bad = shutil.copytree(root / "good", root / "bad")
    break_it(bad / "adapter_model.safetensors")

    async def ask(http: httpx.AsyncClient) -> None:
        before = (await http.get("/v1/adapters")).json()
        for name, replace in (("n", False), ("parts", True)):
            wanted = {"name": name, "path": "bad", "replace": replace}
            refused(
                await http.post("/v1/adapters", json=wanted, headers=KEY),
                400,
                "adapter_model.safetensors" if break_it is not poison else "finite",
            )
        assert (await http.get("/v1/adapters")).json() == before
        assert (await http.get("/health")).status_code == 200

    run(client, ask, admin_key="secret", adapter_folders=[str(root)])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"alora_invocation_tokens": [10**6]}, "not in the base model's vocabulary"),
        ({"target_modules": "(a+)+$"}, "repeats a group"),
        ({"r": 10**9}, "rank"),
    ],
)
def test_what_is_not_supported_is_named(client: Client, root: Path, changes: dict[str, Any], says: str) -> None:
    file = root / "good" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    async def ask(http: httpx.AsyncClient) -> None:
        refused(await http.post("/v1/adapters", json={"name": "n", "path": "good"}, headers=KEY), 400, says)

    run(client, ask, admin_key="secret", adapter_folders=[str(root)])


def test_long_files_are_not_read(client: Client, root: Path) -> None:
    (root / "good" / "alorakit.json").write_bytes(b" " * (2 << 20))

    async def ask(http: httpx.AsyncClient) -> None:
        answer = await http.post("/v1/adapters", json={"name": "n", "path": "good"}, headers=KEY)
        refused(answer, 400, "the limit is")

    run(client, ask, admin_key="secret", adapter_folders=[str(root)])


@pytest.mark.parametrize(
    ("wanted", "param"),
    [
        ({"name": "n"}, "path"),
        ({"name": "n", "path": "good", "repo": "a/b"}, "path"),
        ({"name": "n", "path": "good", "revision": "v1"}, "revision"),
        ({"name": " n", "path": "good"}, "name"),
        ({"name": "a\nb", "path": "good"}, "name"),
        ({"name": "", "path": "good"}, "name"),
        ({"name": "tiny", "path": "good"}, "name"),
        ({"name": "n" * 201, "path": "good"}, "name"),
        ({"name": "n", "path": "good", "layout": "raw"}, "layout"),
        ({"name": "n", "path": "good", "force": True}, "force"),
        ({"name": "n", "path": "a\0b"}, "path"),
        ({"name": "n", "path": "x" * 4000}, "path"),
        ({"name": "n", "path": "good/adapter_config.json"}, "path"),
        ({"name": "n", "path": "nothing"}, "path"),
        ({"path": "good"}, "name"),
    ],
)
def test_bad_requests_name_the_field(client: Client, root: Path, wanted: dict[str, Any], param: str) -> None:
    async def ask(http: httpx.AsyncClient) -> None:
        answer = await http.post("/v1/adapters", json=wanted, headers=KEY)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text
        assert names(await http.get("/v1/adapters")) == ["parts", "checker"]

    run(client, ask, admin_key="secret", adapter_folders=[str(root)], served_model_name="tiny")
