"""A training process is killed again and again, and resumed each time: the adapter is the one of a run left alone."""

import json
import multiprocessing
import random
import shutil
import signal
import time
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from alorakit.engine.adapter_config import AdapterConfig
from alorakit.engine.manifest import Manifest
from tests.training import crash_child

KILLS = 20
CONFIG, WEIGHTS, REPORT = "adapter_config.json", "adapter_model.safetensors", "training.json"
STATE = "training_state.safetensors"
TIMES = ("seconds", "prefix_seconds", "recompute_seconds", "tokens_per_s")
# One process imports everything, all others are forked from it.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["alorakit.training", "torch._dynamo", "pytest"])


@dataclass
class Runs:
    """Starts training processes with the same arguments."""

    base: Path
    data: Path

    def start(self, outfile: Path, resume: bool, last: int | None = None, **changes: Any) -> tuple[BaseProcess, Any]:
        """A process, and what counts its moments; it kills itself at the one numbered ``last``."""
        seen = PROCESSES.Value("i", 0)
        arguments = (self.base, self.data, outfile, changes, resume, last, seen)
        process = PROCESSES.Process(target=crash_child.run, args=arguments)
        process.start()
        return process, seen

    def finish(self, outfile: Path, resume: bool = False, **changes: Any) -> int:
        """Run to the end; the number of moments it had."""
        process, seen = self.start(outfile, resume, **changes)
        process.join()
        assert process.exitcode == 0
        return int(seen.value)


@pytest.fixture(scope="module")
def runs(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    words = [("pump", "yes"), ("and", "one"), ("pump or", "yes")]
    rows = [{"item": "in or " * (i % 4) + words[i % 3][0], "label": words[i % 3][1]} for i in range(25)]
    data = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Runs(tiny_base, data)


@pytest.fixture(scope="module")
def alone(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The adapter of a run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("alone") / "adapter"
    runs.finish(folder)
    return folder


@pytest.fixture(scope="module")
def older(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of other settings."""
    folder = tmp_path_factory.mktemp("older") / "adapter"
    runs.finish(folder, seed=1, epochs=1)
    return folder


def figures(folder: Path) -> dict[str, Any]:
    """The report without what the clock said."""
    report = json.loads((folder / REPORT).read_text())
    history = [{name: value for name, value in entry.items() if name != "seconds"} for entry in report["history"]]
    return {name: value for name, value in report.items() if name not in TIMES} | {"history": history}


def check_folder(folder: Path, *adapters: Path) -> None:
    """What is in the folder is no adapter, or the whole of one of ``adapters``."""
    if not (folder / CONFIG).exists():
        return
    AdapterConfig.load(folder)
    assert Manifest.load(folder) is not None
    assert load_file(folder / WEIGHTS)
    same = [other for other in adapters if (folder / WEIGHTS).read_bytes() == (other / WEIGHTS).read_bytes()]
    assert len(same) == 1
    assert (folder / CONFIG).read_bytes() == (same[0] / CONFIG).read_bytes()
    assert figures(folder) == figures(same[0])


def is_of(folder: Path, adapter: Path) -> bool:
    return (folder / REPORT).exists() and (folder / REPORT).read_bytes() == (adapter / REPORT).read_bytes()


@pytest.mark.parametrize("how", ["moments", pytest.param("seconds", marks=pytest.mark.slow)])
def test_killed_and_resumed(runs: Runs, alone: Path, older: Path, tmp_path: Path, how: str) -> None:
    parent = tmp_path / "parent"
    parent.mkdir()
    (parent / "README.md").write_text("the parent's own")
    (parent / "data.jsonl").write_text("{}")
    outfile = parent / "adapter"
    chance, num_killed, num_finished = random.Random(f"{how} 5"), 0, 0
    began = time.perf_counter()
    num_moments = runs.finish(tmp_path / "measured" / "adapter")
    seconds = time.perf_counter() - began
    while num_killed < KILLS or num_finished < 2:
        replacing = num_finished % 2 == 1
        if replacing and not outfile.exists():
            shutil.copytree(older, outfile)
        # A run that replaces an adapter is begun without, and resumed once it has a checkpoint.
        resume = (outfile / STATE).exists() or not is_of(outfile, older)
        last = chance.randint(1, num_moments) if num_killed < KILLS and how != "seconds" else None
        process, _ = runs.start(outfile, resume, last)
        if how == "seconds" and num_killed < KILLS:
            process.join(chance.uniform(0, seconds))
            process.kill()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        assert sorted(path.name for path in parent.iterdir() if path != outfile) == ["README.md", "data.jsonl"]
        assert (parent / "README.md").read_text() == "the parent's own"
        check_folder(outfile, alone, *([older] if replacing else []))
        if process.exitcode == 0:
            check_folder(outfile, alone)
            assert {path.name for path in outfile.iterdir()} == {path.name for path in alone.iterdir()}
            shutil.rmtree(outfile)
            num_finished += 1
        else:
            num_killed += 1
    assert num_killed == KILLS
