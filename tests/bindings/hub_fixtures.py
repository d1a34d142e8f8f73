"""``hub``: a hub on loopback, which the Hub's client of this process talks to; ``folder``: an adapter to upload."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import _http
from typer.testing import CliRunner

from alorakit.bindings.cli import hub_commit
from alorakit.bindings.cli.main import m_app
from tests.bindings.hub_folders import make_adapter
from tests.hub_server import serve
from tests.hub_state import Hub


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The constants are what ``HF_ENDPOINT`` and its kin set when the client is imported."""
    with serve() as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.url)
        template = served.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setenv("HF_TOKEN", "hf_write")
        monkeypatch.setattr(_http, "time", SimpleNamespace(sleep=lambda seconds: None))
        monkeypatch.setattr(hub_commit, "_PAUSE_S", 0.0)
        _http.close_session()
        yield served
        _http.close_session()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_adapter(tmp_path / "my_adapter")


def upload(folder: Path, *more: str, code: int = 0, name: str = "org/my_adapter") -> Any:
    result = CliRunner().invoke(m_app(), ["alora", "upload", str(folder), "--name", name, *more])
    assert result.exit_code == code, result.output
    if code:
        [line] = result.stderr.splitlines()
        assert line.startswith("error: ")
        return line
    return result


def sent(hub: Hub, name: str = "org/my_adapter", branch: str = "main") -> dict[str, bytes]:
    files = dict(hub.repos[name].branches[branch][-1].files)
    del files[".gitattributes"]
    return files
