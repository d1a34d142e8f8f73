"""``m alora bench``: the quick benchmark on a tiny model, and the list and the running of a checkout's."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from alorakit.bindings.cli import bench_suite
from alorakit.bindings.cli.main import m_app
from tests.engine.folders import make_adapter

ROOT = Path(__file__).resolve().parents[2]


def run(*args: object, code: int = 0) -> Any:
    result = CliRunner().invoke(m_app(), ["alora", "bench", *map(str, args)])
    assert result.exit_code == code, result.output
    return result


def quick(folder: Path, *args: object, code: int = 0) -> Any:
    return run("--model", folder / "model", "--context", 100, "--rounds", 2, "--dtype", "float32", "--device", "cpu",
               *args, code=code)  # fmt: skip


@pytest.mark.parametrize("given", [True, False])
def test_the_quick_one_says_what_each_check_computed(served_folder: Path, given: bool) -> None:
    more = ["--adapter", served_folder / "parts"] if given else []
    result = quick(served_folder, *more, "--json")
    found = json.loads(result.stdout)["quick"]
    assert (found["rounds"], found["device"], found["dtype"]) == (2, "cpu", "float32")
    assert found["adapter"] == (str(served_folder / "parts") if given else None)
    checks = found["checks"]
    assert list(checks) == ["aLoRA", "LoRA", "base model, context read again"]
    total = checks["aLoRA"]["prompt_tokens"]
    assert {check["prompt_tokens"] for check in checks.values()} == {total}
    # The aLoRA finds the whole context, the others none of it; labels share their rows in all three.
    assert [check["reused_tokens"] for check in checks.values()] == [100, 0, 0]
    again = checks["LoRA"]["computed_tokens"]
    assert (checks["aLoRA"]["computed_tokens"], checks["base model, context read again"]["computed_tokens"]) == (
        again - 100, again
    )  # fmt: skip
    assert again >= total
    assert all(check["milliseconds"] > 0 for check in checks.values())
    assert set(found["tokens_per_s"]) == {"base model", "aLoRA"} and min(found["tokens_per_s"].values()) > 0


def test_the_quick_one_for_people(served_folder: Path) -> None:
    lines = quick(served_folder).stdout.splitlines()
    assert "random weights" in lines[0]
    assert lines[2].split()[0] == "aLoRA" and " 1.0 x " in lines[2] and "100 of " in lines[2]


def test_what_cannot_be_measured(served_folder: Path, tmp_path: Path) -> None:
    lora = make_adapter(tmp_path / "lora", served_folder / "model", ["q_proj"], 4, None, 8)
    for args, message in (
        (["--adapter", lora], "is a plain LoRA"),
        (["--context", 5000], "context window"),
        (["--rounds", 0], "rounds=0 must be at least 1"),
        (["nope"], "no benchmark 'nope'; here are quick, check"),
    ):
        assert message in quick(served_folder, *args, code=2).stderr.splitlines()[-1]


def test_the_checkouts_are_listed() -> None:
    names = {path.stem.removeprefix("bench_") for path in (ROOT / "benchmarks").glob("bench_*.py")}
    listed = json.loads(run("--list", "--json").stdout)
    assert set(listed) == {"quick"} | names
    assert all(listed.values())
    assert run("--list").stdout.count("\n") == len(listed)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with two small benchmarks."""
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    for name in ("__init__.py", "harness.py"):
        (folder / name).touch()
    (folder / "bench_good.py").write_text(
        '"""Good."""\nimport json, sys\nprint("a table")\nprint(json.dumps({"full": "--full" in sys.argv[1:]}))\n'
    )
    (folder / "bench_bad.py").write_text('"""Bad."""\nprint("so far")\nraise SystemExit(3)\n')
    monkeypatch.setattr(bench_suite, "folder", lambda: folder)
    return folder


def test_benchmarks_run_in_processes_of_their_own(checkout: Path) -> None:
    result = run("good", "--full", "--json")
    assert json.loads(result.stdout) == {"good": [{"full": True}]}
    assert "a table" in result.stderr
    assert run("good").stdout == 'a table\n{"full": false}\n'
    failed = run("--full", code=1)
    assert failed.stderr.splitlines()[-1] == "error: bad failed; what they printed says why"
    assert "so far" in failed.stdout and "a table" in failed.stdout


def test_without_a_checkout_there_is_the_quick_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_suite, "folder", lambda: None)
    assert run("--list").stdout.startswith("quick ") and run("--list").stdout.count("\n") == 1
    assert "this is none" in run("--full", code=2).stderr
