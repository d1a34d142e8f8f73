"""The examples of docs/server.md run against a server, and its tables name what there is."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from alorakit import Engine
from alorakit.bindings.server import ServerConfig
from alorakit.bindings.server.errors import CODES
from alorakit.bindings.server.schemas_chat import ChatRequest
from alorakit.bindings.server.schemas_checks import CheckAnswer
from alorakit.bindings.server.schemas_completions import CompletionRequest
from alorakit.engine.manifest import Manifest
from tests.bindings.server.running import Running, running

DOCS = (Path(__file__).parents[3] / "docs" / "server.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"<!-- example -->\n```(sh|python)\n(.*?)```", DOCS, re.DOTALL)
ADMIN_KEY = "secret"
ADDRESS = "http://127.0.0.1:8000"


@pytest.fixture(scope="module")
def documented(served_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    allowed = tmp_path_factory.mktemp("allowed")
    shutil.copytree(served_folder / "parts", allowed / "my_adapter")
    manifest = Manifest(labels=("overheating", "seal leak", "no_failure"), invocation="check")
    (allowed / "my_adapter" / "alorakit.json").write_text(manifest.to_json())
    settings = {"admin_key": ADMIN_KEY, "adapter_folders": [str(allowed)], "api_keys": ()}
    with Engine.from_pretrained(served_folder / "model", dtype="float32", device="cpu", block_size=16) as engine:
        engine.add_adapter("failure", allowed / "my_adapter")
        with running(engine, served_model_name="HuggingFaceTB/SmolLM2-135M-Instruct", **settings) as started:
            yield started


@pytest.mark.parametrize("index", range(len(EXAMPLES)))
def test_an_example(documented: Running, index: int, capsys: pytest.CaptureFixture[str]) -> None:
    language, code = EXAMPLES[index]
    assert ADDRESS in code
    code = code.replace(ADDRESS, documented.url)
    if language == "sh":
        command = ["bash", "-ec", code.replace("curl ", "curl --silent --show-error --fail-with-body ")]
        environment = os.environ | {"ALORAKIT_ADMIN_KEY": ADMIN_KEY}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stdout + done.stderr
        assert re.search('"(choices|checks|scores|data)":\\[{', done.stdout)
        return
    exec(compile(code, "docs/server.md", "exec"), {"__name__": "example"})
    assert capsys.readouterr().out.strip()


def test_there_are_examples_of_both_kinds() -> None:
    assert {language for language, _ in EXAMPLES} == {"sh", "python"} and len(EXAMPLES) >= 5


def test_every_setting_is_documented() -> None:
    settings = DOCS[DOCS.index("## Settings") : DOCS.index("## Errors")]
    assert [f.name for f in fields(ServerConfig) if f"`{f.name}`" not in settings] == []


@pytest.mark.parametrize("body", [ChatRequest, CompletionRequest], ids=lambda body: body.__name__)
def test_every_field_is_documented(body: Callable[..., object]) -> None:
    read = DOCS[DOCS.index("## What is read") : DOCS.index("## Settings")]
    assert [name for name in body.model_fields if f"`{name}`" not in read] == []  # type: ignore[attr-defined]


def test_every_error_is_documented() -> None:
    errors = DOCS[DOCS.index("## Errors") : DOCS.index("## Log")]
    told = dict(re.findall(r"^\| (\d+) \| (.*?) \|", errors, re.MULTILINE))
    assert [code for status, code in CODES.items() if f"`{code}`" not in told.get(str(status), "")] == []


def test_a_checks_answer_is_documented() -> None:
    checks = DOCS[DOCS.index("| of its answer") : DOCS.index("Token `i`")]
    known = {"name", "adapter", "kind", "reason"}  # say what they are
    assert [name for name in CheckAnswer.model_fields if name not in known and f"`{name}`" not in checks] == []
