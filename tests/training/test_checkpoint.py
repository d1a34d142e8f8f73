import os
from collections.abc import Callable
from pathlib import Path

import pytest

from alorakit.engine.errors import TrainingError
from alorakit.training import ExampleList, TrainConfig, checkpoint, loop, train
from alorakit.training.checkpoint import check_outfile

Settings = Callable[..., TrainConfig]
FILES = {"adapter_config.json", "adapter_model.safetensors", "alorakit.json", "training.json", "README.md"}


@pytest.fixture
def run(tiny_base: Path, toy_rows: ExampleList, settings: Settings) -> Callable[[Path], object]:
    return lambda outfile: train(tiny_base, toy_rows[:4], settings(epochs=1), outfile)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_an_adapter_is_replaced_and_its_neighbours_are_not(run: Callable[[Path], object], tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("the parent's own")
    (tmp_path / "adapter").mkdir()
    run(tmp_path / "adapter")
    for name in ("io.yaml", "training.png", ".gitattributes"):
        (tmp_path / "adapter" / name).write_text("x")
    run(tmp_path / "adapter")
    assert {p.name for p in (tmp_path / "adapter").iterdir()} == FILES
    assert {p.name for p in tmp_path.iterdir()} == {"README.md", "adapter"}
    assert (tmp_path / "README.md").read_text() == "the parent's own"


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "README.md"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["disk", "kill"])
def test_a_save_that_fails_leaves_what_was_there(
    run: Callable[[Path], object], tmp_path: Path, name: str, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "old")
    before = contents(tmp_path)
    write = checkpoint._write

    def fail(path: Path, content: bytes) -> None:
        if path.name == name:
            write(path, content[: len(content) // 2])
            raise error
        write(path, content)

    monkeypatch.setattr(checkpoint, "_write", fail)
    expected = TrainingError if isinstance(error, OSError) else type(error)
    for target in (tmp_path / "old", tmp_path / "new", tmp_path / "deep" / "new"):
        with pytest.raises(expected):
            run(target)
    assert contents(tmp_path) == before
    assert [p.name for p in tmp_path.iterdir()] == ["old"]


def test_a_rename_that_fails_puts_the_old_adapter_back(
    run: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "adapter"
    run(target)
    before = contents(tmp_path)
    rename = Path.rename

    def fail(self: Path, to: Path) -> Path:
        if to == target and (self / "training.json").exists() and self.name.startswith("."):
            raise OSError(5, "Input/output error")
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(TrainingError, match="Input/output error"):
        run(target)
    assert contents(tmp_path) == before


def test_an_outfile_that_cannot_be_written_is_found_before_the_model_is_loaded(
    run: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "build_model", lambda *_: pytest.fail("loaded"))
    (tmp_path / "file").write_text("x")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("x")
    before = contents(tmp_path)
    cases = [("file", "is a file"), ("notes", "mine.txt"), ("file/below", "cannot be written")]
    cases += [("x" * 300, "too long"), (f"new/{'x' * 300}", "too long"), ("a\0b", "cannot be written")]
    for name, what in cases:
        with pytest.raises(TrainingError, match=what):
            run(tmp_path / name)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["data.jsonl", "notes/", "README.md/", "checkpoint-5/"])
def test_a_folder_that_holds_anything_else_is_never_replaced(
    run: Callable[[Path], object], tmp_path: Path, name: str
) -> None:
    target = tmp_path / "adapter"
    run(target)
    entry = target / name
    if name.endswith("/"):
        entry.unlink(missing_ok=True)
        entry.mkdir()
        (entry / "mine.txt").write_text("x")
    else:
        entry.write_text("x")
    before = contents(tmp_path)
    with pytest.raises(TrainingError, match=f"would delete .*'{entry.name}'.*move them away") as info:
        run(target)
    assert "\n" not in str(info.value)
    assert contents(tmp_path) == before


def test_a_folder_without_an_adapter_is_somebody_elses(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("x")
    with pytest.raises(TrainingError, match=r"'README\.md'"):
        check_outfile(tmp_path)


def test_the_home_of_nobody() -> None:
    with pytest.raises(TrainingError, match="cannot be written"):
        check_outfile("~nouser-of-this-name/x")


def test_a_name_as_long_as_the_disk_takes(run: Callable[[Path], object], tmp_path: Path) -> None:
    for _ in range(2):
        run(tmp_path / ("x" * 255))
    assert {p.name for p in (tmp_path / ("x" * 255)).iterdir()} == FILES


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_parent(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(TrainingError, match="Permission denied"):
        check_outfile(tmp_path / "a")


def test_checking_leaves_no_trace(tmp_path: Path) -> None:
    assert check_outfile(tmp_path / "a" / "b") == (tmp_path / "a" / "b").resolve()
    assert list(tmp_path.iterdir()) == []
