"""Ctrl-C and SIGTERM: the run stops between two steps, keeps what it had reached, and gives the signals back."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from typer.testing import CliRunner

from alorakit.bindings.cli.main import m_app
from alorakit.engine.errors import TrainingInterrupted
from alorakit.training import ExampleList, ProgressEvent, TrainConfig, TrainReport, train
from alorakit.training.interrupt import watched
from alorakit.training.state import State
from tests.training.ended_runs import STATE, WEIGHTS, contents, figures

Settings = Callable[..., TrainConfig]
Run = Callable[..., TrainReport]
SIGNALS = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture(autouse=True)
def usual_handlers() -> Iterator[None]:
    """Those of a Python that was just started; pytest may have been started with a signal ignored."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def run(tiny_base: Path, toy_rows: ExampleList, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr("alorakit.training.result.training_png", lambda *_: b"")
    config = settings(dropout=0.2, epochs=1, batch_size=2, grad_accum=1)
    return lambda outfile, progress=None, **more: train(tiny_base, toy_rows[:10], config, outfile, progress, **more)


def handlers() -> list[Any]:
    return [signal.getsignal(number) for number in SIGNALS]


def at(stage: str, done: int, act: Callable[[], object]) -> Callable[[ProgressEvent], None]:
    """A progress function that acts once, when so much of a stage is done."""
    left = [act]

    def tell(event: ProgressEvent) -> None:
        if left and event.stage == stage and event.done >= done:
            left.pop()()

    return tell


@pytest.mark.parametrize("number", SIGNALS, ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize(
    ("stage", "done", "step"), [("load", 0, 0), ("prefix", 1, 0), ("evaluate", 2, 0), ("train", 2, 2), ("train", 4, 4)]
)
def test_a_signal_stops_between_two_steps(
    run: Run, tmp_path: Path, number: int, stage: str, done: int, step: int
) -> None:
    before, outfile = handlers(), tmp_path / "a"
    with pytest.raises(TrainingInterrupted) as info:
        run(outfile, at(stage, done, lambda: os.kill(os.getpid(), number)))
    assert str(info.value) == (
        f"stopped at step {step} of 4; {outfile / STATE} holds what was reached; resume with the same arguments and "
        "--resume (resume=True)"
    )
    assert set(contents(outfile)) == {STATE}
    assert handlers() == before
    resumed, alone = run(outfile, resume=True), run(tmp_path / "alone")
    assert figures(resumed) == figures(alone)
    assert (outfile / WEIGHTS).read_bytes() == (alone.path / WEIGHTS).read_bytes()
    assert handlers() == before


def test_stopped_again_while_it_loads_nothing_is_lost(run: Run, tmp_path: Path) -> None:
    with pytest.raises(TrainingInterrupted, match="at step 2 of 4"):
        run(tmp_path / "a", at("train", 2, lambda: os.kill(os.getpid(), signal.SIGINT)))
    for stage in ("load", "prefix"):
        with pytest.raises(TrainingInterrupted, match="at step 2 of 4"):
            run(tmp_path / "a", at(stage, 1, lambda: os.kill(os.getpid(), signal.SIGINT)), resume=True)
    assert figures(run(tmp_path / "a", resume=True)) == figures(run(tmp_path / "alone"))


def test_asked_to_stop_while_the_adapter_is_written_it_is_written(run: Run, tmp_path: Path) -> None:
    before = handlers()
    report = run(tmp_path / "a", at("save", 0, lambda: os.kill(os.getpid(), signal.SIGINT)))
    assert (report.path / WEIGHTS).exists() and not (report.path / STATE).exists()
    assert handlers() == before


@pytest.mark.parametrize("first", SIGNALS, ids=["SIGINT", "SIGTERM"])
def test_a_second_interrupt_ends_at_once(run: Run, tmp_path: Path, first: int) -> None:
    def twice() -> None:
        os.kill(os.getpid(), first)
        os.kill(os.getpid(), signal.SIGINT)

    before = handlers()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "a", at("train", 2, twice))
    assert handlers() == before
    assert list(tmp_path.iterdir()) == []


def test_somebody_elses_handlers_are_left_alone(run: Run, tmp_path: Path) -> None:
    got: list[int] = []

    def mine(number: int, frame: FrameType | None) -> None:
        got.append(number)

    for number in SIGNALS:
        signal.signal(number, mine)
    report = run(tmp_path / "a", at("train", 2, lambda: [os.kill(os.getpid(), number) for number in SIGNALS]))
    assert sorted(got) == sorted(SIGNALS)
    assert len(report.steps) == 4
    assert handlers() == [mine, mine]


def test_only_handlers_that_are_there_are_caught() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as of a process in the background
    with watched() as interrupt:
        os.kill(os.getpid(), signal.SIGINT)
        assert not interrupt.asked
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupt.asked
    assert handlers() == [signal.SIG_IGN, signal.SIG_DFL]


def test_a_thread_trains_without_handlers(run: Run, tmp_path: Path) -> None:
    before, seen, reports = handlers(), [], list[TrainReport]()
    look = at("train", 2, lambda: seen.append(handlers()))
    thread = threading.Thread(target=lambda: reports.append(run(tmp_path / "a", look)))
    thread.start()
    thread.join()
    assert len(reports[0].steps) == 4
    assert seen == [before]


@pytest.fixture
def command(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Arguments of ``m`` for a run of 100 steps."""
    monkeypatch.setattr("alorakit.training.result.training_png", lambda *_: b"")
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(f'{{"item": "pump {i}", "label": "{"yes" if i % 2 else "one"}"}}\n' for i in range(10)))
    settings = "--device cpu --dtype float32 --rank 2 --epochs 20 --batch-size 2 --grad-accum 1 --val-fraction 0"

    def arguments(outfile: Path, *more: str) -> list[str]:
        files = [str(data), "--basemodel", str(tiny_base), "--outfile", str(outfile)]
        return ["alora", "train", *files, *settings.split(), *more]

    return arguments


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_the_command_says_where_it_stopped(command: Callable[..., list[str]], tmp_path: Path, number: int) -> None:
    outfile = tmp_path / "stopped"
    script = "from alorakit.bindings.cli.main import m; m()"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", script, *command(outfile)], stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line.rstrip())
            if line.startswith("train 1/100"):  # many steps are left when the signal arrives
                process.send_signal(number)
    assert process.returncode == TrainingInterrupted.exit_code == 130
    [said] = [line for line in lines if not line.startswith(("load", "prefix", "train"))]
    found = re.fullmatch(r"stopped at step (\d+) of 100; (.*) holds what was reached; resume .* and --resume .*", said)
    assert found is not None and found[2] == str(outfile / STATE)
    state = State.read(outfile)
    assert state is not None and state.progress.step == int(found[1]) > 0
    assert set(contents(outfile)) == {STATE}
    for more in ([str(outfile), "--resume"], [str(tmp_path / "alone")]):
        result = CliRunner().invoke(m_app(), command(Path(more[0]), *more[1:]))
        assert result.exit_code == 0, result.output
    assert (outfile / WEIGHTS).read_bytes() == (tmp_path / "alone" / WEIGHTS).read_bytes()
