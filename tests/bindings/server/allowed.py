"""A server that may load adapters from one folder, and what is beside that folder."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from alorakit import Engine
from tests.bindings.server.running import CHAT, Running, chat

KEY = {"authorization": "Bearer secret"}
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


@pytest.fixture
def root(tmp_path: Path, served_folder: Path) -> Path:
    """An allowed folder with an adapter in it; beside it is one that is not allowed."""
    for name in ("root/good", "outside/secret"):
        shutil.copytree(served_folder / "parts", tmp_path / name)
    return tmp_path / "root"


@pytest.fixture
def server(live: Callable[..., Running], root: Path, engine: Engine) -> Iterator[Running]:
    yield live(admin_key="secret", adapter_folders=[str(root)])
    for name in engine.adapters.keys() - {"parts", "checker"}:
        engine.remove_adapter(name)


def load(server: Running, path: str, name: str = "n", **more: Any) -> httpx.Response:
    wanted = {"name": name, "path": path, **more}
    return httpx.post(f"{server.url}/v1/adapters", json=wanted, headers=KEY, timeout=60)


def unharmed(server: Running) -> None:
    assert {*server.engine.adapters} == {"parts", "checker"}
    assert httpx.post(server.url + CHAT, json=chat(), timeout=60).status_code == 200
