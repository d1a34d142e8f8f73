"""The training benchmarks on a tiny model: both contestants do the same run, and their memory is counted."""

import argparse
import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from alorakit import Engine
from alorakit.engine.tokenizer import Tokenizer
from alorakit.training import Example, ExampleList, ProgressEvent, load_examples
from alorakit.training.answers import Answers
from benchmarks import bench_learning, bench_training
from benchmarks.resident import PeakMemory, resident, settle
from benchmarks.training_rows import long_rows, read_rows, write_rows
from benchmarks.training_run import OURS, PEER, Outcome, Run, _Watch, measure, perform, spread

MIB = 1 << 20


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_dir: Path) -> Path:
    """A random two-layer Llama with a context that holds notes in the tiny tokenizer's many tokens."""
    folder = tmp_path_factory.mktemp("tiny-llama")
    torch.manual_seed(0)
    vocab = Tokenizer.from_pretrained(tiny_tokenizer_dir).vocab_size
    config = LlamaConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=vocab, max_position_embeddings=2048, initializer_range=0.2,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    for file in tiny_tokenizer_dir.iterdir():
        shutil.copy(file, folder)
    return folder


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """Rows whose label one word decides."""
    rng = random.Random(0)
    words = {"yes": "pump", "no": "and"}
    items = [(rng.choice(list(words)), rng.sample(["in", "or", "end", "of"], 3)) for _ in range(24)]
    rows = [{"item": " ".join([*rest, words[label]]), "label": label} for label, rest in items]
    return write_rows(tmp_path / "toy.jsonl", rows)


def run_of(who: str, model: Path, rows: Path, steps: int | None = None, **changes: object) -> Run:
    config = dict(epochs=3, learning_rate=1e-2, rank=4, dropout=0.0, dtype="float32", device="cpu", val_fraction=0.25)
    return Run(who, str(model), str(rows), 512, config | changes, steps, threads=1)


def test_both_contestants_take_the_same_steps(tiny: Path, toy: Path) -> None:
    ours, peer = perform(run_of(OURS, tiny, toy)), perform(run_of(PEER, tiny, toy))
    assert ours.num_steps == peer.num_steps == len(peer.step_seconds) == 9  # 18 rows of 24, by 8, three times
    assert ours.losses == pytest.approx(peer.losses, rel=0, abs=1e-4)
    assert ours.val_loss == pytest.approx(peer.val_loss, rel=1e-4)
    assert ours.dtype == peer.dtype == "float32"
    assert 0 < ours.prefix_seconds < ours.seconds
    shape = 2 * 2 * 2 * 16 * 4  # two layers, keys and values, two heads of 16, four bytes
    assert ours.store > 0 == peer.store and ours.store % shape == 0


def test_a_contestant_in_a_process_of_its_own(tiny: Path, toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = measure(run_of(PEER, tiny, toy, steps=2))
    assert (outcome.num_steps, len(outcome.step_seconds), len(outcome.losses)) == (9, 2, 2)
    assert outcome.loaded > 0 and outcome.growth > 0
    monkeypatch.setattr("sys.executable", "false")
    with pytest.raises(SystemExit, match=r"alorakit ended with code 1"):
        measure(run_of(OURS, tiny, toy))


def test_some_steps_are_spread_over_the_run() -> None:
    assert list(spread(3, 48)) == [8, 24, 40]
    assert list(spread(1, 5)) == [2]
    assert list(spread(None, 4)) == list(spread(9, 4)) == [0, 1, 2, 3]


def test_the_peak_is_what_was_resident_in_between() -> None:
    with PeakMemory() as memory:
        before = settle()
        memory.take()
        block = torch.ones(64 * MIB // 4)
        del block
        assert memory.take() - before >= 60 * MIB
        assert memory.take() - resident() < 16 * MIB


def test_kept_prefixes_are_not_growth(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = iter([0, 150, 190, 230, 210])
    memory = argparse.Namespace(take=lambda: next(peaks))
    monkeypatch.setattr("benchmarks.training_run.settle", lambda: 100)
    watch = _Watch(memory)  # type: ignore[arg-type]
    for event in (("load", 1, 1), ("prefix", 1, 2), ("prefix", 2, 2), ("train", 1, 1)):
        watch(ProgressEvent(*event))
    watch.finish_stretch()
    # Beyond the 100 loaded: 50 with nothing kept, 90 with half of 80, 130 and 110 with all of it.
    assert (watch.loaded, watch.growth(80), watch.growth(0)) == (100, 50, 130)


@pytest.mark.parametrize("from_file", [True, False])
def test_long_rows_have_the_tokens_they_should(tiny: Path, tmp_path: Path, from_file: bool) -> None:
    tokenizer = Tokenizer.from_pretrained(tiny)
    data = str(write_rows(tmp_path / "some.jsonl", read_rows(None, 5))) if from_file else None
    rows = long_rows(data, tokenizer, 4, 700)
    examples = load_examples(write_rows(tmp_path / "long.jsonl", rows), tokenizer, max_length=700)
    assert len({example.prefix_ids for example in examples}) == 4
    assert all(680 < example.num_tokens <= 700 for example in examples)


def test_a_file_with_too_few_rows_is_named(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "some.jsonl", read_rows(None, 5))
    with pytest.raises(SystemExit, match=r"has 5 rows, 6 are needed"):
        read_rows(str(path), 6)


def test_the_benchmark_ends_in_json_of_every_part(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Run] = []

    def in_this_process(run: Run) -> Outcome:
        asked.append(run)
        return perform(run)

    monkeypatch.setattr(bench_training, "measure", in_this_process)
    monkeypatch.setattr("sys.argv", ["bench_training", "--model", str(tiny), "--threads", "1"])
    bench_training.main()
    out = capsys.readouterr().out
    found = json.loads(out.splitlines()[-1])
    assert set(found) == set(bench_training.PARTS)
    assert len(asked) == len(set(map(repr, asked))) == 2 + 1 + 2 + 2 + 4
    assert found["same"]["targets"]["same: 2 steps without dropout, largest difference"]["met"]
    assert 0 <= found["same"]["apart"] < 1e-4
    assert found["long"]["targets"] == {} and "small sizes, no target" in out
    assert found["memory"]["bytes"][bench_training.LIMITED]["store"] <= 24 * MIB
    assert "the peer took 1 of its 2 optimizer steps" in out
    assert {run.config["adapter"] for run in asked if "adapter" in run.config} == {"lora"}


def test_at_full_size_the_targets_are_judged(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def made_up(run: Run) -> Outcome:
        if run.who == PEER:
            return Outcome(48, 1000.0, "float32", step_seconds=[2.0, 1.0, 9.0], growth=900 * MIB)
        limited = "prefix_memory" in run.config
        seconds, growth = (40.0, 200 * MIB) if limited else (9.0, 310 * MIB)
        return Outcome(48, 1000.0, "float32", seconds, 4.0, growth=growth, store=250 * MIB)

    monkeypatch.setattr(bench_training, "measure", made_up)
    arguments = ["--full", "--part", "long", "--part", "memory", "--model", str(tiny)]
    monkeypatch.setattr("sys.argv", ["bench_training", *arguments])
    bench_training.main()
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    met = {
        what: (round(target["value"], 2), target["met"])
        for part in found.values()
        for what, target in part["targets"].items()
    }
    assert met == {
        "long: whole run against transformers + PEFT": (10.67, True),  # a median of 2 s, 48 times, against 9 s
        "memory: alorakit, growth of the peer's": (0.34, False),
        "memory: alorakit, little memory for prefixes, growth of the peer's": (0.22, True),
        "memory: prefixes in little memory": (250, True),
        "memory: in little memory against the peer": (2.4, False),
    }


@pytest.mark.parametrize(
    ("rows", "held_out", "sizes"), [(None, None, (8, 2)), (5, None, (5, 5)), (None, 3, (7, 3)), (4, 3, (4, 3))]
)
def test_rows_to_ask_are_not_trained_on(rows: int | None, held_out: int | None, sizes: tuple[int, int]) -> None:
    examples = ExampleList([Example((i,), (1,), (2,), "a") for i in range(10)], "x", 0)
    first, second = bench_learning.parts(examples, 1, rows, held_out)
    assert (len(first), len(second)) == sizes
    assert not {e.prefix_ids for e in first} & {e.prefix_ids for e in second}
    assert (
        second
        == bench_learning.parts(examples, 1, rows, held_out)[1]
        != bench_learning.parts(examples, 2, rows, held_out)[1]
    )


def test_more_rows_than_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    examples = ExampleList([Example((i,), (1,), (2,), "a") for i in range(10)], "x", 0)
    with pytest.raises(SystemExit, match="9 rows to train on and 3 to ask do not come out of 10"):
        bench_learning.parts(examples, 1, 9, 3)


def test_learning_is_measured_on_rows_not_seen(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(0)
    rows = []
    for index in range(60):
        word, label = rng.choice([("pump", "yes"), ("temperature", "one")])
        rows.append({"item": f"{index} {word}", "label": label})
    arguments = [
        str(write_rows(tmp_path / "rows.jsonl", rows)),
        "--model",
        str(tiny),
        "--adapter",
        "both",
        "--epochs",
        "4",
    ]
    arguments += ["--learning-rate", "1e-2", "--target-modules", "all-linear", "--seed-list", "3", "--device", "cpu"]
    monkeypatch.setattr("sys.argv", ["bench_learning", *arguments, "--dtype", "float32", "--held-out", "15"])
    bench_learning.main()
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    (run,) = found["runs"]
    assert (run["seed"], run["rows"], run["held_out"], run["answers"], run["seen"]) == (3, 45, 15, "label", 0)
    assert run["alora"] > run["base"] and run["lora"] >= 0.8
    assert found["accuracy"]["behind"]["points"] == pytest.approx(100 * (run["lora"] - run["alora"]))


def test_of_generated_texts_the_field_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ['{"part":"pump","p":0.1}', '{"part":"valve","p":0.2}', "pump", '{"p":1}']
    wanted = ['{"part":"pump","p":0.9}'] * 4
    asked: list[object] = []

    def generate(prompts: list[list[int]], sampling: object, adapter: str | None) -> list[argparse.Namespace]:
        asked.append((prompts[0], adapter))
        return [argparse.Namespace(text=text) for text in texts]

    engine: Engine = argparse.Namespace(generate=generate)  # type: ignore[assignment]
    rows = [Example((7, 8), (1,), (2,), label) for label in wanted]
    answers = Answers("text", (), "part")
    assert bench_learning.accuracy(engine, rows, answers, "a") == 0.25
    assert asked == [([7, 8, 1], "a")]
