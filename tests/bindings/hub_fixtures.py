"""``hub``: a hub on loopback, which the Hub's client of this process talks to."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import _http

from alorakit.bindings.cli import hub_commit
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
