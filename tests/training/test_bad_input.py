"""Places that an adapter cannot be written to, and what lies beside it: nothing is lost, and nothing is left behind."""

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from alorakit.engine.adapter_config import AdapterConfig
from alorakit.engine.errors import TrainingError
from alorakit.engine.manifest import Manifest
from alorakit.training import ExampleList, ProgressEvent, TrainConfig, train

Settings = Callable[..., TrainConfig]
Run = Callable[..., object]
ROOT = os.geteuid() == 0 if hasattr(os, "geteuid") else False


@pytest.fixture
def run(tiny_base: Path, toy_rows: ExampleList, settings: Settings) -> Run:
    return lambda outfile, **more: train(tiny_base, toy_rows[:4], settings(epochs=1), outfile, **more)


@pytest.fixture
def parent(tmp_path: Path) -> Path:
    """A folder with a README of its own and a file that somebody needs."""
    folder = tmp_path / "parent"
    folder.mkdir()
    (folder / "README.md").write_text("the parent's own")
    (folder / "data.jsonl").write_text("{}")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def beside(outfile: Path) -> dict[str, bytes]:
    """Everything in the parent but the adapter's folder; folders by their name."""
    kept = [path for path in outfile.parent.iterdir() if path != outfile]
    return {path.name: path.read_bytes() if path.is_file() else b"a folder" for path in kept}


def no_adapter(folder: Path) -> bool:
    return not (folder / "adapter_config.json").exists() and not (folder / "adapter_model.safetensors").exists()


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[Callable[[str], None]]:
    """A file system in memory at ``folder``; gives a function that mounts it anew with other options."""
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if shutil.which("mount") is None:
        pytest.skip("there is no mount command")
    if (tried := subprocess.run(command, capture_output=True, text=True)).returncode:
        pytest.skip(f"a file system cannot be mounted here: {tried.stderr.splitlines()[0]}")
    try:
        yield lambda new: subprocess.run(["mount", "-o", f"remount,{new}", str(folder)], check=True) and None
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Files of this process cannot grow beyond ``size`` bytes: writing stops as on a full disk, with another number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nothing can be made in ``folder``; root, whom permissions do not bind, needs a mount for that."""
    if not ROOT:
        folder.chmod(0o555)
        try:
            yield
        finally:
            folder.chmod(0o755)
        return
    kept = contents(folder)
    with mounted(folder, "size=1m") as remount:
        for name, content in kept.items():
            (folder / name).write_bytes(content)
        remount("ro")
        yield


# --- disks that are full ----------------------------------------------------------------------------------------------


def test_a_file_that_cannot_be_written_whole_leaves_nothing(run: Run, parent: Path) -> None:
    outfile = parent / "adapter"
    before = beside(outfile)
    with largest_file(4096), pytest.raises(TrainingError, match="File too large"):
        run(outfile)
    assert beside(outfile) == before and no_adapter(outfile)


def test_a_file_that_cannot_be_written_whole_leaves_the_old_adapter(run: Run, parent: Path) -> None:
    outfile = parent / "adapter"
    run(outfile)
    before, old = beside(outfile), contents(outfile)
    with largest_file(4096), pytest.raises(TrainingError, match="File too large"):
        run(outfile)
    assert beside(outfile) == before
    assert {name: content for name, content in contents(outfile).items() if name in old} == old


def test_a_full_disk(run: Run, tmp_path: Path) -> None:
    with mounted(tmp_path, "size=8k"):
        with pytest.raises(TrainingError, match="No space left"):
            run(tmp_path / "adapter")
        assert names(tmp_path) <= {"adapter"} and no_adapter(tmp_path / "adapter")


def test_a_disk_that_is_full_the_second_time(run: Run, tmp_path: Path) -> None:
    outfile = tmp_path / "adapter"
    with mounted(tmp_path, "size=1m"):
        run(outfile)
        before = contents(outfile)
        (tmp_path / "ballast").write_bytes(bytes(4096))
        with pytest.raises(OSError, match="No space left"), (tmp_path / "ballast").open("ab", buffering=0) as ballast:
            while ballast.write(bytes(4096)):
                pass
        with pytest.raises(TrainingError, match="No space left"):
            run(outfile)
        assert names(tmp_path) == {"adapter", "ballast"}
        assert {name: content for name, content in contents(outfile).items() if name in before} == before
        Manifest.load(outfile)
        AdapterConfig.load(outfile)


# --- places that are no places ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["data.jsonl", "data.jsonl/adapter", "data.jsonl/deep/adapter"])
def test_a_file_in_the_way_is_found_before_the_model_is(
    toy_rows: ExampleList, settings: Settings, parent: Path, name: str
) -> None:
    before = contents(parent)
    with pytest.raises(TrainingError, match="outfile") as info:
        train("no-such/model", toy_rows[:4], settings(), parent / name)
    assert "\n" not in str(info.value)
    assert contents(parent) == before


@pytest.mark.parametrize("name", ["adapter", "new/adapter"])
def test_a_read_only_parent_is_found_before_the_model_is(
    toy_rows: ExampleList, settings: Settings, parent: Path, name: str
) -> None:
    before = contents(parent)
    with read_only(parent), pytest.raises(TrainingError, match=r"Permission denied|Read-only file system"):
        train("no-such/model", toy_rows[:4], settings(), parent / name)
    assert contents(parent) == before


def test_a_read_only_outfile(run: Run, parent: Path) -> None:
    outfile = parent / "adapter"
    outfile.mkdir()
    before = beside(outfile)
    with read_only(outfile):
        with pytest.raises(TrainingError, match="outfile"):
            run(outfile)
        assert names(outfile) == set()
    assert beside(outfile) == before


# --- what lies beside the adapter -------------------------------------------------------------------------------------


class Stop(Exception):
    """Somebody's own progress function failed."""


@pytest.mark.parametrize("stage", ["load", "prefix", "train", "evaluate", "save", None])
@pytest.mark.parametrize("present", [False, True], ids=["new", "present"])
def test_the_parent_keeps_its_files_and_gets_no_others(
    run: Run, parent: Path, stage: str | None, present: bool
) -> None:
    outfile = parent / "adapter"
    if present:
        outfile.mkdir()
    before = beside(outfile)

    def progress(event: ProgressEvent) -> None:
        if event.stage == stage:
            raise Stop

    if stage is None:
        run(outfile)
        assert not no_adapter(outfile)
    else:
        with pytest.raises(Stop):
            run(outfile, progress=progress)
        assert no_adapter(outfile)
    assert beside(outfile) == before


_WATCHED: list[tuple[str, str]] | None = None
_HOOKED: list[bool] = []


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if _WATCHED is None:
        return
    if event == "open":
        paths = [args[0]] if isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) else []
    elif event in ("os.mkdir", "os.rename", "os.link", "os.symlink"):
        paths = list(args[: 1 if event == "os.mkdir" else 2])
    else:
        return
    named = [path for path in paths if isinstance(path, str | bytes | os.PathLike)]  # not the number of an open file
    _WATCHED.extend((event, str(Path(os.fsdecode(path)).absolute())) for path in named)


@contextmanager
def watched() -> Iterator[list[tuple[str, str]]]:
    """What Python makes, opens for writing or renames meanwhile: an audit hook, which sees what is soon gone again."""
    global _WATCHED
    if not _HOOKED:
        sys.addaudithook(_hook)  # it stays for good, and does nothing outside of this
        _HOOKED.append(True)
    _WATCHED = seen = []
    try:
        yield seen
    finally:
        _WATCHED = None


@pytest.mark.parametrize("present", [False, True], ids=["new", "present"])
def test_nothing_is_made_beside_the_adapter_not_even_for_a_while(run: Run, parent: Path, present: bool) -> None:
    outfile = parent / "adapter"
    for _ in range(2 if present else 1):  # the second run replaces what the first one wrote
        with watched() as seen:
            run(outfile)
    assert any(str(outfile) in path for _, path in seen)
    foreign = [(event, path) for event, path in seen if path.startswith(f"{parent}/")]
    assert [entry for entry in foreign if not f"{entry[1]}/".startswith(f"{outfile}/")] == []


def test_an_adapter_is_written_into_a_folder_whose_parent_is_read_only(run: Run, parent: Path) -> None:
    outfile = parent / "adapter"
    outfile.mkdir()
    if not ROOT:
        with read_only(parent):
            run(outfile)
        assert not no_adapter(outfile)
        return
    with mounted(parent, "size=1m") as remount:
        outfile.mkdir()
        with mounted(outfile, "size=1m"):
            remount("ro")
            run(outfile)
            assert not no_adapter(outfile)
