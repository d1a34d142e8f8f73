"""``m alora serve``: its options are the settings, and asking for help loads nothing."""

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from alorakit.bindings.cli.main import m_app
from alorakit.bindings.server import ServerConfig, logs, run


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What ``serve`` was called with."""
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(run, "serve", lambda *args, **settings: calls.append((*args, settings)))
    monkeypatch.setattr(logs, "log_as_json", lambda: None)
    monkeypatch.delenv("ALORAKIT_API_KEYS", raising=False)
    monkeypatch.delenv("ALORAKIT_ADMIN_KEY", raising=False)
    return calls


def invoke(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(m_app(), ["alora", "serve", *arguments])
    assert result.exit_code == code, result.output
    return result.output + result.stderr


def test_defaults_are_the_settings(served: list[tuple[Any, ...]]) -> None:
    invoke("some/model")
    [(model, config, adapters, _, settings)] = served
    assert (model, config, adapters) == ("some/model", ServerConfig(), {})
    assert settings == {
        "dtype": "auto", "device": "auto", "memory_fraction": None, "max_model_len": None, "max_waiting": 4096,
        "compile": False, "revision": None,
    }  # fmt: skip


def test_it_says_where_it_answers(served: list[tuple[Any, ...]], capsys: pytest.CaptureFixture[str]) -> None:
    invoke("some/model")
    served[0][3]("http://127.0.0.1:8000", SimpleNamespace(model_name="some/model", adapters={"failure": None}))
    told = "some/model at http://127.0.0.1:8000, where browsers find a page\n  adapter failure\n"
    assert capsys.readouterr().out == told


def test_every_option_reaches_its_field(served: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ServerConfig(
        host="0.0.0.0", port=1234, served_model_name="tiny", api_keys=("k1", "k2"), admin_key="root",
        adapter_folders=("/a", "/b"), adapter_repos=("org/*",), max_body_bytes=1000, max_new_tokens=10,
        default_max_tokens=5, max_connections=7, request_timeout_s=8.0, read_timeout_s=9.0, drain_s=11.0,
        cors_origins=("https://x",), log_prompts=True, trust_special_tokens=True,
    )  # fmt: skip
    listen = ["--host", "0.0.0.0", "--port", "1234", "--served-model-name", "tiny", "--cors-origin", "https://x"]
    keys = ["--api-key", "k1", "--api-key", "k2", "--admin-key", "root", "--log-prompts", "--trust-special-tokens"]
    adapters = ["--adapter", "a=b", "--adapter", "c=d=e", "--adapter-folder", "/a", "--adapter-folder", "/b"]
    tokens = ["--adapter-repo", "org/*", "--max-new-tokens", "10", "--default-max-tokens", "5"]
    limits = ["--max-body-bytes", "1000", "--max-connections", "7", "--request-timeout-s", "8", "--read-timeout-s", "9"]
    engine = ["--drain-s", "11", "--dtype", "float32", "--device", "cpu", "--memory-fraction", "0.5", "--compile"]
    more = ["--max-model-len", "100", "--max-waiting", "3", "--revision", "v1"]
    invoke("m", *listen, *keys, *adapters, *tokens, *limits, *engine, *more)
    [(_, config, begun, _, settings)] = served
    assert config == wanted
    assert begun == {"a": "b", "c": "d=e"}
    assert settings == {
        "dtype": "float32", "device": "cpu", "memory_fraction": 0.5, "max_model_len": 100, "max_waiting": 3,
        "compile": True, "revision": "v1",
    }  # fmt: skip
    served.clear()
    monkeypatch.setenv("ALORAKIT_API_KEYS", "e1, e2")
    monkeypatch.setenv("ALORAKIT_ADMIN_KEY", "root")
    invoke("m")
    assert (served[0][1].api_keys, served[0][1].admin_key) == (("e1", "e2"), "root")


def test_an_adapter_without_a_name_has_that_of_its_folder(served: list[tuple[Any, ...]]) -> None:
    invoke("m", "--adapter", "checkpoints/my_adapter")
    assert served[0][2] == {"my_adapter": "checkpoints/my_adapter"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--adapter", "=place"], "name=folder"),
        (["--adapter", "a=b", "--adapter", "a=c"], "twice"),
        (["--host", "10.0.0.1"], "ALORAKIT_API_KEYS"),
        (["--port", "70000"], "port=70000"),
        (["--drain-s", "0"], "drain_s=0"),
    ],
)
def test_bad_options_are_one_line(served: list[tuple[Any, ...]], arguments: list[str], says: str) -> None:
    said = invoke("m", *arguments, code=2)
    assert says in said and said.startswith("error: ")
    assert served == []


def test_help_loads_neither_torch_nor_the_server() -> None:
    program = (
        "import sys\nfrom alorakit.bindings.cli.main import m_app\nfrom typer.testing import CliRunner\n"
        "result = CliRunner().invoke(m_app(), ['alora', 'serve', '--help'])\n"
        "assert result.exit_code == 0 and '--adapter-folder' in result.output\n"
        "print([name for name in ('torch', 'fastapi', 'uvicorn') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
