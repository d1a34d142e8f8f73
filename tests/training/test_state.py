"""Checkpoints that cannot be resumed: damaged, of another run, or on a disk that is full."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from alorakit.engine.errors import TrainingError
from alorakit.training import Example, ExampleList, TrainConfig, train
from tests.training.ended_runs import STATE, Killed, Until, contents

Settings = Callable[..., TrainConfig]


@pytest.fixture
def rows(toy_rows: ExampleList) -> list[Example]:
    return list(toy_rows[:12])


@pytest.fixture
def stopped(tiny_base: Path, rows: list[Example], settings: Settings, tmp_path: Path) -> Path:
    """A folder with a checkpoint after two steps."""
    with pytest.raises(Killed):
        train(tiny_base, rows, settings(save_steps=2), tmp_path / "stopped", Until(last=3))
    return tmp_path / "stopped"


def test_a_checkpoint_is_of_one_run(
    tiny_base: Path, rows: list[Example], settings: Settings, stopped: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for file in tiny_base.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    weights = load_file(other / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"] + 1e-6
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    before = contents(stopped)
    same = (tiny_base, rows, settings())
    cases: list[tuple[tuple[Path, list[Example], TrainConfig], str]] = [
        ((other, *same[1:]), r"another base model\)"),
        ((tiny_base, rows[:-1], same[2]), r"other data\)"),
        ((tiny_base, [replace(rows[0], weight=9.0), *rows[1:]], same[2]), r"other data\)"),
        (
            (*same[:2], settings(learning_rate=0.5, rank=2)),
            r"rank=4 there, 2 here, learning_rate=0\.01 there, 0\.5 here\)",
        ),
        ((other, rows[:-1], settings(seed=0)), r"another base model, other data, seed=42 there, 0 here\)"),
    ]
    for arguments, what in cases:
        with pytest.raises(TrainingError, match=rf"of another run \(.*{what}; resume with what it was") as info:
            train(*arguments, stopped, resume=True)
        assert "\n" not in str(info.value)
    with pytest.raises(TrainingError, match=r"other data, val_fraction=0\.2 there"):
        train(*same, stopped, validation=rows[:2], resume=True)
    with pytest.raises(TrainingError, match=r"stopped at step 2; go on from it with --resume .*or delete it"):
        train(*same, stopped)
    assert contents(stopped) == before
    assert train(*same, stopped, resume=True).steps


@pytest.mark.parametrize("damage", ["half", "empty", "text", "header", "huge"])
def test_a_checkpoint_that_is_none(
    tiny_base: Path, rows: list[Example], settings: Settings, stopped: Path, damage: str
) -> None:
    state = stopped / STATE
    whole = state.read_bytes()
    other = {"half": whole[: len(whole) // 2], "empty": b"", "text": b"no tensors", "header": whole[:100]}
    state.write_bytes(other.get(damage, b"\xff" * 8 + whole[8:]))
    with pytest.raises(TrainingError, match=r"cannot be read as a checkpoint .*delete it") as info:
        train(tiny_base, rows, settings(), stopped, resume=True)
    assert "\n" not in str(info.value)
    with pytest.raises(TrainingError, match="cannot be read as a checkpoint"):
        train(tiny_base, rows, settings(), stopped)
    state.unlink()
    assert train(tiny_base, rows, settings(), stopped).steps
