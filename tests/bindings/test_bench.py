"""``m alora bench``: the quick benchmark on a tiny model, and how a checkout's benchmarks are run."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from alorakit.bindings.cli import bench, bench_suite
from alorakit.bindings.cli.main import m_app
from tests.engine.folders import make_adapter

ROOT = Path(__file__).resolve().parents[2]


def run(*args: object, code: int = 0) -> Any:
    result = CliRunner().invoke(m_app(), ["alora", "bench", *map(str, args)])
    assert result.exit_code == code, result.output
    return result


def quick(folder: Path, *args: object, code: int = 0) -> Any:
    return run(*args, "quick", "--model", folder / "model", "--context", 100, "--rounds", 2, "--dtype", "float32",
               "--device", "cpu", code=code)  # fmt: skip


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
    base = ["--model", served_folder / "model", "--device", "cpu"]
    for args, message in (
        (["--adapter", lora], "is a plain LoRA"),  # an adapter's benchmark is the quick one
        (["quick", "--context", 5000], "context window"),
        (["quick", "--rounds", 0], "rounds=0 must be at least 1"),
    ):
        assert message in run(*base, *args, code=2).stderr.splitlines()[-1]


def test_the_usage_shows_that_there_may_be_several() -> None:
    assert "[OPTIONS] [NAME]...\n" in run("--help").stdout


def test_the_checkouts_are_listed() -> None:
    found = json.loads(run("--list", "--json").stdout)
    scripts = {path.stem for path in (ROOT / "benchmarks").glob("bench_*.py")}
    assert {name for name in found if name.startswith("bench_")} == scripts
    assert {"quick", "checks", "training", "throughput"} <= set(found) and all(found.values())
    assert found["checks"] == "part of the suite" and found["throughput"] == "part of the suite without --quick"
    assert "no benchmark 'nope'; here are quick, checks" in run("nope", code=2).stderr


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with a suite and two scripts that tell what they are called with."""
    tell = "import json, sys\nprint('a table')\nprint(json.dumps(sys.argv[1:]).join(['{\"args\": ', '}']))\n"
    for name, text in {
        "__init__": "",
        "suite/__init__": "",
        "suite/setup": "FULL, QUICK = 1, 0",
        "suite/run": f"def parts(size):\n    return ['one', 'two', 'big'][:2 + size]\nif __name__ == '__main__':\n"
        f"    exec({tell!r})\n",
        "bench_good": f'"""Good."""\n{tell}# knows "--full"',
        "bench_bad": '"""Bad."""\nprint("so far")\nraise SystemExit(3)\n',
    }.items():
        path = tmp_path / "benchmarks" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for module in (bench_suite, bench):
        monkeypatch.setattr(module, "root", lambda: tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_checkout_runs_its_suite(checkout: Path) -> None:
    given = ["--model", "m", "--device", "cpu", "--dtype", "auto"]
    kept = ["--out", str(checkout / "bench-results")]

    def called(*args: str) -> list[str]:
        [line] = json.loads(run("--model", "m", "--device", "cpu", *args, "--json").stdout)["suite"]
        return line["args"]  # type: ignore[no-any-return]

    assert called() == given
    assert called("--quick") == [*given, "--quick", *kept]
    # A part alone must not take the place of the whole suite's results.
    assert called("one", "two") == [*given, "--only", "one,two", *kept]
    assert called("one", "--quick", "--out", "x") == [*given, "--quick", "--only", "one", "--out", str(checkout / "x")]
    assert "big: part of the suite without --quick; leave that out" in run("one", "big", "--quick", code=2).stderr
    names = json.loads(run("--list", "--json").stdout).keys()
    assert names == {"quick", "one", "two", "big", "bench_bad", "bench_good"}
    (checkout / "folder").mkdir()  # the suite runs in another folder than the command
    [line] = json.loads(run("--model", "folder", "--json").stdout)["suite"]
    assert line["args"][1] == str(checkout / "folder")


def test_scripts_run_in_processes_of_their_own(checkout: Path) -> None:
    result = run("bench_good", "--json")
    assert json.loads(result.stdout) == {"bench_good": [{"args": ["--full"]}]}
    assert "a table" in result.stderr
    assert run("bench_good", "--quick").stdout == 'a table\n{"args": []}\n'
    failed = run("bench_bad", "bench_good", code=1)
    assert failed.stderr.splitlines()[-1] == "error: bench_bad failed; what was printed says why"
    assert "so far" in failed.stdout and "a table" in failed.stdout


def test_a_checkout_that_cannot_be_imported(checkout: Path) -> None:
    (checkout / "benchmarks" / "suite" / "setup.py").write_text("import no_such_peer")
    why = "cannot be imported (ModuleNotFoundError: No module named 'no_such_peer')"
    for args in (["one"], []):
        [line] = run(*args, code=2).stderr.splitlines()
        assert why in line and "pip install -e '.[test]'" in line
    assert why in run("--list").stderr and run("--list").stdout.startswith("quick ")


def test_without_a_checkout_there_is_the_quick_one(served_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (bench_suite, bench):
        monkeypatch.setattr(module, "root", lambda: None)
    assert run("--list").stdout.startswith("quick ") and run("--list").stdout.count("\n") == 1
    assert "no benchmark 'checks'; here are quick" in run("checks", code=2).stderr
    result = run(
        "--model", served_folder / "model", "--context", 20, "--rounds", 1, "--device", "cpu", "--json", "--quick"
    )
    assert list(json.loads(result.stdout)) == ["quick"]
