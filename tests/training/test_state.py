"""Checkpoints: whose they are, what damage and full disks do to them, and what stays when a loss is not finite."""

import math
import resource
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from alorakit.engine.errors import TrainingError
from alorakit.training import Example, ExampleList, ProgressEvent, TrainConfig, train
from alorakit.training.loss import SuffixModel
from alorakit.training.state import State
from tests.training.ended_runs import STATE, WEIGHTS, Killed, Until, contents, figures

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


# --- disks ------------------------------------------------------------------------------------------------------------


def test_a_checkpoint_that_does_not_fit_leaves_the_one_before(
    tiny_base: Path, rows: list[Example], settings: Settings, tmp_path: Path
) -> None:
    config, outfile = settings(save_steps=1), tmp_path / "a"
    alone = train(tiny_base, rows, config, tmp_path / "alone")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def full(event: ProgressEvent) -> None:
        if event.stage == "train" and event.done == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))

    try:
        with pytest.raises(TrainingError, match=r"File too large.*the one before it is still there; make room") as info:
            train(tiny_base, rows, config, outfile, full)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(info.value)
    assert set(contents(outfile)) == {STATE}
    state = State.read(outfile)
    assert state is not None and state.progress.step == 2
    resumed = train(tiny_base, rows, config, outfile, resume=True)
    assert figures(resumed) == figures(alone)
    assert (outfile / WEIGHTS).read_bytes() == (alone.path / WEIGHTS).read_bytes()


def test_the_first_checkpoint_does_not_fit(
    tiny_base: Path, rows: list[Example], settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(TrainingError, match=r"No space left on device\); make room"):
        train(tiny_base, rows, settings(save_steps=1), tmp_path / "deep" / "a")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_turns_read_only(
    tiny_base: Path, rows: list[Example], settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, unlink = Path.open, Path.unlink

    def refuse(call: Callable[..., Any]) -> Callable[..., Any]:
        def refused(path: Path, *args: Any, **kwargs: Any) -> Any:
            if path.name.startswith(STATE):
                raise OSError(30, "Read-only file system")
            return call(path, *args, **kwargs)

        return refused

    def tell(event: ProgressEvent) -> None:
        if event.stage == "train":
            monkeypatch.setattr(Path, "open", refuse(opened))
            monkeypatch.setattr(Path, "unlink", refuse(unlink))

    with pytest.raises(TrainingError, match=r"checkpoint cannot be written \(Read-only file system\)"):
        train(tiny_base, rows, settings(save_steps=1), tmp_path / "a", tell)


def test_a_second_interrupt_leaves_no_half_of_a_checkpoint(
    tiny_base: Path, rows: list[Example], settings: Settings, stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(stopped)

    def interrupted(handle: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(tiny_base, rows, settings(), stopped, resume=True)
    assert contents(stopped) == before


# --- losses that are not finite ---------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_says_where_and_keeps_the_checkpoint(
    tiny_base: Path, rows: list[Example], settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(save_steps=2, val_fraction=0.0, batch_size=2, grad_accum=1)
    rows = [replace(row, line=100 + i) for i, row in enumerate(rows)]
    calls, real = [0], SuffixModel.log_probabilities

    def sick(model: SuffixModel, batch: Sequence[Example], candidates: Any) -> Tensor:
        calls[0] += 1
        seen.append([row.line for row in batch])
        return real(model, batch, candidates) * (math.nan if calls[0] == 4 else 1.0)

    seen: list[list[int]] = []
    monkeypatch.setattr(SuffixModel, "log_probabilities", sick)
    with pytest.raises(TrainingError) as info:
        train(tiny_base, rows, config, tmp_path / "a")
    named = ", ".join(str(line) for line in seen[3])
    assert str(info.value) == (
        f"loss is nan at optimizer step 4 of 12, rows {named}; try a learning_rate below 0.01, or dtype='float32'; "
        f"{tmp_path / 'a' / STATE} is the last checkpoint: delete it to start again"
    )
    state = State.read(tmp_path / "a")
    assert state is not None and state.progress.step == 2
    assert set(contents(tmp_path / "a")) == {STATE}


def test_a_checkpoint_never_holds_weights_that_are_not_finite(
    tiny_base: Path, rows: list[Example], settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, done = torch.optim.AdamW.step, [0]

    def overflow(optimizer: torch.optim.AdamW, *args: Any) -> Any:
        done[0] += 1
        found = step(optimizer, *args)
        if done[0] == 2:
            with torch.no_grad():
                optimizer.param_groups[0]["params"][0][0, 0] = math.inf
        return found

    monkeypatch.setattr(torch.optim.AdamW, "step", overflow)
    config = settings(save_steps=1, batch_size=2, grad_accum=1)
    with pytest.raises(TrainingError, match=r"an adapter weight is nan at optimizer step 2 of 10, rows \d+, \d+; try"):
        train(tiny_base, rows, config, tmp_path / "a")
    state = State.read(tmp_path / "a")
    assert state is not None and state.progress.step == 1
    assert all(bool(tensor.isfinite().all()) for name, tensor in state.tensors.items() if tensor.is_floating_point())


def test_validation_rows_are_named_by_their_own_numbers(
    tiny_base: Path, rows: list[Example], settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [replace(row, line=0) for row in rows]
    real = SuffixModel.log_probabilities
    monkeypatch.setattr(SuffixModel, "log_probabilities", lambda *args: real(*args) * math.nan)
    with pytest.raises(
        TrainingError, match=r"validation loss is nan at optimizer step 0 of 4, validation rows 1, 2; try"
    ):
        train(tiny_base, rows[:10], settings(), tmp_path / "a", validation=rows[10:])
    assert list(tmp_path.iterdir()) == []
