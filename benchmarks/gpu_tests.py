"""Runs the kernels' and the engine's tests on a GPU, in several processes: each compiles its share of the kernels.

As a pytest plugin (``-p benchmarks.gpu_tests``) it keeps one process's share of the tests and writes a line of JSON for
each. It needs pytest and nothing else; test files that need more are left out where that is not installed.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARE = "ALORAKIT_TEST_SHARE"  # index/count/file for the lines
MAX_PROCESSES = 12
# After such an error every further call in the process fails, whatever it is.
LOST = ("illegal memory access", "misaligned address", "unspecified launch failure", "device-side assert")


def test_files(quick: bool) -> list[str]:
    """The files to run; ``quick``: only whole engines on the device."""
    kernels = [] if quick else sorted((ROOT / "tests" / "kernels").glob("test_*.py"))
    files = [path for path in kernels if path.name != "test_ahead_of_time.py"]  # needs no device
    files += [path for path in [ROOT / "tests" / "engine" / "test_gpu.py"] if path.is_file()]
    if importlib.util.find_spec("hypothesis") is None:
        files = [path for path in files if "from hypothesis" not in path.read_text(encoding="utf-8")]
    return [str(path.relative_to(ROOT)) for path in files]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep this process's share; neighbours, which are of one kernel, go to different processes."""
    if share := os.environ.get(SHARE):
        index, count, _ = share.split("/", 2)
        items[:] = items[int(index) :: int(count)]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Write down how a test ended."""
    share = os.environ.get(SHARE)
    if not share or (report.when != "call" and report.passed) or (report.when == "teardown" and not report.failed):
        return
    why = report.longreprtext[-1500:] if report.failed else ""
    line = {"test": report.nodeid, "outcome": report.outcome, "seconds": round(report.duration, 2), "why": why}
    with Path(share.split("/", 2)[2]).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    if any(text in why for text in LOST):
        pytest.exit(f"{report.nodeid} lost the device", returncode=3)


def run(files: list[str], out: Path, num_processes: int, timeout_s: float) -> dict[str, Any]:
    """Run test files, shared out; what happened, also written to ``out / "gpu-tests.json"``."""
    out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    lines = [out / f"tests-{index}.jsonl" for index in range(num_processes)]
    logs = [out / f"tests-{index}.log" for index in range(num_processes)]
    children = []
    for index, (line, log) in enumerate(zip(lines, logs, strict=True)):
        line.unlink(missing_ok=True)
        command = [sys.executable, "-m", "pytest", "-q", "-p", "benchmarks.gpu_tests", "-p", "no:cacheprovider", *files]
        env = os.environ | {SHARE: f"{index}/{num_processes}/{line.resolve()}"}
        with log.open("w", encoding="utf-8") as stream:
            children.append(subprocess.Popen(command, cwd=ROOT, env=env, stdout=stream, stderr=subprocess.STDOUT))
    codes = []
    for child in children:
        try:
            codes.append(child.wait(max(1.0, start + timeout_s - time.perf_counter())))
        except subprocess.TimeoutExpired:
            child.kill()
            codes.append(child.wait())
    seconds = time.perf_counter() - start
    found = [json.loads(text) for line in lines if line.is_file() for text in line.read_text("utf-8").splitlines()]
    # 0: passed, 1: some failed, 5: no test in this share
    crashed = [
        f"{log.name}: {log.read_text('utf-8')[-800:]}" for log, c in zip(logs, codes, strict=True) if c not in (0, 1, 5)
    ]
    result = {
        "outcomes": Counter(each["outcome"] for each in found),
        "seconds": round(seconds, 1),
        "failures": {each["test"]: each["why"] for each in found if each["outcome"] == "failed"},
        "crashed": crashed,
        "slowest": sorted(((each["seconds"], each["test"]) for each in found), reverse=True)[:10],
    }
    (out / "gpu-tests.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def main(argv: list[str] | None = None) -> int:
    """Run the tests and print how they ended; 0 if all passed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="whole engines only")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--timeout", type=float, default=240.0, help="seconds after which the rest is given up")
    parser.add_argument("files", nargs="*", help="default: the kernels' and tests/engine/test_gpu.py")
    args = parser.parse_args(argv)
    files = args.files or test_files(args.quick)
    if not files:
        print("no tests to run")
        return 0
    result = run(files, args.out, min(MAX_PROCESSES, os.cpu_count() or 1), args.timeout)
    for name, why in list(result["failures"].items())[:8]:
        print(f"FAILED  {name}\n{why[-700:]}\n")
    for text in result["crashed"]:
        print(f"CRASHED  {text}\n")
    print(f"tests: {dict(result['outcomes'])}, {result['seconds']} s; {len(result['failures'])} failed")
    for name in list(result["failures"])[:60]:
        print(f"  {name}")
    return 1 if result["failures"] or result["crashed"] else 0


if __name__ == "__main__":
    sys.exit(main())
