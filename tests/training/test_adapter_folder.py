import os
from collections.abc import Callable
from pathlib import Path

import pytest

from alorakit.engine.errors import TrainingError
from alorakit.training import ExampleList, TrainConfig, adapter_folder, loop, train
from alorakit.training.adapter_folder import check_outfile

Settings = Callable[..., TrainConfig]
Run = Callable[..., object]
FILES = {
    "adapter_config.json",
    "adapter_model.safetensors",
    "alorakit.json",
    "training.json",
    "README.md",
    "io.yaml",
    "training.png",
}


@pytest.fixture
def run(tiny_base: Path, toy_rows: ExampleList, settings: Settings) -> Run:
    return lambda outfile, **more: train(tiny_base, toy_rows[:4], settings(epochs=1), outfile, **more)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_an_adapter_is_replaced_and_its_neighbours_are_not(run: Run, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("the parent's own")
    (tmp_path / "adapter").mkdir()
    run(tmp_path / "adapter")
    (tmp_path / "adapter" / ".gitattributes").write_text("x")
    run(tmp_path / "adapter")
    assert {p.name for p in (tmp_path / "adapter").iterdir()} == FILES
    assert {p.name for p in tmp_path.iterdir()} == {"README.md", "adapter"}
    assert (tmp_path / "README.md").read_text() == "the parent's own"


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "README.md"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["disk", "kill"])
def test_a_save_that_fails_leaves_what_was_there(
    run: Run, tmp_path: Path, name: str, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "old")
    before = contents(tmp_path)
    write = adapter_folder.write_partial

    def fail(path: Path, content: bytes) -> None:
        if path.name == name:
            write(path, content[: len(content) // 2])
            raise error
        write(path, content)

    monkeypatch.setattr(adapter_folder, "write_partial", fail)
    expected = TrainingError if isinstance(error, OSError) else type(error)
    for target in (tmp_path / "old", tmp_path / "new", tmp_path / "deep" / "new"):
        with pytest.raises(expected):
            run(target)
    # What was trained is not lost: each folder has the run's checkpoint, from which the adapter can be written.
    after = contents(tmp_path)
    assert {name for name in after if Path(name).name == "training_state.safetensors"} == after.keys() - before.keys()
    assert {name: after[name] for name in before} == before
    monkeypatch.undo()
    for target in (tmp_path / "old", tmp_path / "new", tmp_path / "deep" / "new"):
        run(target, resume=True)
        assert {p.name for p in target.iterdir()} == FILES


@pytest.mark.parametrize("stop", range(1, 8))
@pytest.mark.parametrize("old", [True, False], ids=["replacing", "new"])
def test_files_come_in_an_order_that_never_shows_half_an_adapter(
    run: Run, tmp_path: Path, old: bool, stop: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "adapter"
    if old:
        run(target)
    replace, done = Path.replace, []

    def fail(self: Path, to: Path) -> Path:
        if to.name in FILES:
            done.append(to.name)
            if len(done) == stop:
                raise OSError(5, "Input/output error")
        return replace(self, to)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", fail)
        with pytest.raises(TrainingError, match=r"Input/output error.*resume it"):
            run(target)
    present = {path.name for path in target.iterdir()}
    assert "adapter_config.json" not in present
    assert "training_state.safetensors" in present
    run(target, resume=True)
    assert {path.name for path in target.iterdir()} == FILES


def test_an_outfile_that_cannot_be_written_is_found_before_the_model_is_loaded(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
def test_a_folder_that_holds_anything_else_is_never_replaced(run: Run, tmp_path: Path, name: str) -> None:
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


def test_a_name_as_long_as_the_disk_takes(run: Run, tmp_path: Path) -> None:
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
