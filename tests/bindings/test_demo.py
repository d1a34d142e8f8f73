"""The demo's decisions and tables; the whole of it runs in ``make demo``."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from alorakit.bindings.cli import demo_training
from alorakit.bindings.cli.demo_measure import Accuracy, CheckCost, measure_accuracy
from alorakit.bindings.cli.demo_run import demand_improvement
from alorakit.bindings.cli.demo_table import accuracy_lines, cost_rows, legend, plain_table
from alorakit.bindings.cli.demo_training import check_place, prepare_adapter, write_file, write_rows
from alorakit.bindings.cli.notes import LABELS
from alorakit.engine.errors import TrainingError
from alorakit.engine.manifest import Manifest

COSTS = [CheckCost("alora", 1200, 1180, 40, 100.0), CheckCost("lora", 1200, 26, 1190, 1200.0)]


def put_adapter(out: Path, labels: tuple[str, ...] = LABELS, invocation: list[int] | None = [1]) -> Path:  # noqa: B006
    folder = out / "my_adapter"
    folder.mkdir(parents=True)
    config = {"peft_type": "LORA", "alora_invocation_tokens": invocation}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "alorakit.json").write_text(Manifest(labels=labels, invocation="@").to_json())
    return folder


def test_rows_are_split_and_left_alone_the_second_time(tmp_path: Path) -> None:
    held_out = write_rows(tmp_path / "new" / "folder", 20, seed=0)
    out = tmp_path / "new" / "folder"
    rows = [json.loads(line) for line in (out / "notes.jsonl").read_text(encoding="utf-8").splitlines()]
    assert (len(rows), len(held_out)) == (20, demo_training.HELD_OUT)
    assert not {row["item"] for row in rows} & {row["item"] for row in held_out}
    os.utime(out / "notes.jsonl", (1, 1))
    write_rows(out, 20, seed=0)
    assert (out / "notes.jsonl").stat().st_mtime == 1
    write_rows(out, 20, seed=1)
    assert (out / "notes.jsonl").stat().st_mtime > 1
    assert sorted(path.name for path in out.iterdir()) == ["held_out.jsonl", "notes.jsonl"]


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(TrainingError):
        check_place(tmp_path / "file", retrain=False)
    with pytest.raises(TrainingError, match="--out"):
        write_file(tmp_path / "file" / "x", "text")


@pytest.mark.parametrize(("labels", "invocation"), [(("yes", "no"), [1]), (LABELS, None)])
def test_another_adapter_is_not_replaced(tmp_path: Path, labels: tuple[str, ...], invocation: list[int] | None) -> None:
    put_adapter(tmp_path, labels, invocation)
    with pytest.raises(TrainingError, match="not the demo's; give another folder with --out"):
        check_place(tmp_path, retrain=False)
    check_place(tmp_path, retrain=True)


@pytest.mark.parametrize("name", ["my_adapter", "lora_for_comparison"])
def test_somebody_elses_files_are_not_replaced(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "mine.txt").write_text("x")
    with pytest.raises(TrainingError, match=r"mine\.txt"):
        check_place(tmp_path, retrain=True)


def test_an_adapter_newer_than_its_rows_is_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(*args: Any) -> None:
        raise InterruptedError

    monkeypatch.setattr(demo_training, "resolve_model", train)
    write_rows(tmp_path, 20, seed=0)
    manifest = put_adapter(tmp_path) / "alorakit.json"
    check_place(tmp_path, retrain=False)
    assert not prepare_adapter(tmp_path, seed=0, retrain=False)
    with pytest.raises(InterruptedError):
        prepare_adapter(tmp_path, seed=0, retrain=True)
    os.utime(manifest, (1, 1))
    with pytest.raises(InterruptedError):
        prepare_adapter(tmp_path, seed=0, retrain=False)


def test_accuracy_compares_labels_and_verdicts(fake_engine: Any) -> None:
    engine = fake_engine(score=lambda text: 2.0 if text == "seal leak" else 1.0)
    engine.register("a", Manifest(labels=LABELS, invocation="@"))
    rows = [{"item": "wet", "label": "seal leak"}, {"item": "hot", "label": "overheating"}]
    accuracy = measure_accuracy(engine.session().backend, "a", rows)
    assert accuracy == Accuracy(rows=2, chance=1 / 7, before=0.5, after=0.5, verdicts_agree=1.0)
    assert {prompt for prompt, *_ in engine.scored} == {"<user>wet@", "<user>hot@"}
    with pytest.raises(TrainingError, match=r"50\.0%, not above the base model's 50\.0%"):
        demand_improvement(accuracy)


def test_an_improvement_is_let_through() -> None:
    accuracy = Accuracy(rows=100, chance=0.14, before=0.15, after=0.95, verdicts_agree=1.0)
    demand_improvement(accuracy)
    assert "95.0%" in accuracy_lines(accuracy)[1]


def test_table() -> None:
    assert cost_rows(COSTS)[0] == ("aLoRA", "1,200", "1,180", "40", "100")
    assert legend(COSTS)[-1] == "The aLoRA check was 12.0 times as fast here."
    assert plain_table(("kind", "n"), [("a", "100"), ("longer", "1")]) == ["kind      n", "a       100", "longer    1"]
