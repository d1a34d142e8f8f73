"""``m alora eval`` on a tiny model: what it finds is what the engine says, and nothing else is touched."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from alorakit.bindings.cli.eval_measure import Answer, context_length
from alorakit.bindings.cli.eval_report import report_of
from alorakit.bindings.cli.eval_rows import Contender
from alorakit.bindings.cli.main import m_app
from alorakit.engine.engine import Engine
from alorakit.engine.layouts import check_ids
from alorakit.engine.manifest import Manifest
from alorakit.engine.tokenizer import Tokenizer
from alorakit.training import Example, load_examples
from alorakit.training.answers import Answers
from tests.engine.folders import make_adapter, make_model

INVOCATION = "<|start_header_id|>check"
LABELS = ("no", "one", "yes")
ITEMS = [f"The pump vibrates at {n} RPM, and a connecting rod is suspected." for n in range(0, 3100, 250)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_dir: Path) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "tiny", tiny_tokenizer_dir)


@pytest.fixture(scope="module")
def adapters(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Make an adapter folder, with or without ``alorakit.json``."""

    def make(name: str, manifest: dict[str, Any] | None, alora: bool = True) -> Path:
        ids = Tokenizer.from_pretrained(model).encode(INVOCATION, add_special_tokens=False)
        path = tmp_path_factory.mktemp("adapters") / name
        folder = make_adapter(path, model, ["q_proj", "v_proj"], 4, ids if alora else None, seed=len(name))
        if manifest is not None:
            settings = {"base_model": str(model), "invocation": INVOCATION, **manifest}
            (folder / "alorakit.json").write_text(Manifest(**settings).to_json(), encoding="utf-8")
        return folder

    return make


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write(tmp_path / "rows.jsonl", [{"item": i, "label": LABELS[n % 3]} for n, i in enumerate(ITEMS)])


def run(*args: object, code: int = 0) -> Any:
    result = CliRunner().invoke(m_app(), ["alora", "eval", *map(str, args), "--device", "cpu", "--dtype", "float32"])
    assert result.exit_code == code, result.output
    return result


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_figures_are_the_engines(model: Path, adapters: Callable[..., Path], data: Path, tmp_path: Path) -> None:
    mine = adapters("mine", {"labels": LABELS, "temperature": 3.0})
    other = adapters("other-lora", {"labels": LABELS}, alora=False)
    before = contents(mine), contents(other)
    out = tmp_path / "out"
    result = run(data, "--adapter", mine, "--against", other, "--outdir", out, "--json")
    found = json.loads((out / "eval.json").read_text(encoding="utf-8"))
    assert json.loads(result.stdout) == found
    assert (out / "eval.png").read_bytes().startswith(b"\x89PNG")
    assert set(contents(out)) == {"eval.json", "eval.png"}
    assert (contents(mine), contents(other)) == before
    assert (found["rows"], found["answer"], found["labels"], found["temperature"]) == (13, "label", list(LABELS), 3.0)

    with Engine.from_pretrained(model, device="cpu", dtype="float32") as engine:
        ids = engine.tokenizer.encode(INVOCATION, add_special_tokens=False)
        for key, folder in (("adapter", mine), ("base", None), ("against", other)):
            if folder is not None:
                engine.add_adapter(key, folder)
            prompts = [
                check_ids(engine.tokenizer, "chat", [{"role": "user", "content": i}], None, ids, INVOCATION)
                for i in ITEMS
            ]
            scores = [engine.score(p, LABELS, adapter=None if folder is None else key) for p in prompts]
            confusion = [[0] * 4 for _ in LABELS]
            for n, score in enumerate(scores):
                confusion[n % 3][LABELS.index(score.best.text)] += 1
            entry = found["models"][key]
            assert entry["confusion"] == confusion
            assert entry["accuracy"] == pytest.approx(sum(confusion[n][n] for n in range(3)) / len(ITEMS))
            confidence = sum(part["confidence"] * part["count"] for part in entry["reliability"]) / len(ITEMS)
            assert confidence == pytest.approx(sum(s.best.probability for s in scores) / len(ITEMS), abs=1e-4)
        prompt_tokens = len(prompts[0])
    assert found["uncalibrated"]["ece"] != found["models"]["adapter"]["ece"]
    costs = {key: entry["cost"] for key, entry in found["models"].items()}
    # The aLoRA's check finds the whole context, and computes what it adds; the LoRA shares nothing with the base.
    assert costs["adapter"]["prompt_tokens"] == pytest.approx(prompt_tokens, abs=3)
    assert costs["adapter"]["reused_tokens"] == costs["adapter"]["prompt_tokens"] - len(ids)
    label_rows = sum(len(engine.tokenizer.encode(label, add_special_tokens=False)) for label in LABELS)
    assert costs["adapter"]["computed_tokens"] == len(ids) + label_rows
    assert costs["against"]["reused_tokens"] < 10
    assert costs["adapter"]["rows"] == len(ITEMS) - 1
    assert all(cost["milliseconds"] > 0 for cost in costs.values())


def test_the_tables(adapters: Callable[..., Path], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = run(data, "--adapter", adapters("mine", {"labels": LABELS}), "--limit", "4").stdout.splitlines()
    assert lines[0] == "rows.jsonl: 4 rows"
    assert lines[1].split("  ")[0] == "model"
    assert [line.split()[0] for line in lines[2:4]] == ["mine", "base"]
    assert [line.split()[0] for line in lines[8:11]] == ["no", "one", "yes"]
    assert [line.split()[1] for line in lines[8:11]] == ["2", "1", "1"]
    assert lines[-1] == f"wrote {Path('eval-mine/eval.json')} and {Path('eval-mine/eval.png')}"
    assert (tmp_path / "eval-mine" / "eval.png").is_file()


def test_a_foreign_adapter_takes_the_labels_of_the_rows(
    adapters: Callable[..., Path], data: Path, tmp_path: Path
) -> None:
    found = json.loads(run(data, "--adapter", adapters("foreign", None), "--outdir", tmp_path / "o", "--json").stdout)
    assert found["labels"] == list(LABELS)
    assert found["temperature"] == 1.0
    assert found["models"]["adapter"]["cost"]["reused_tokens"] > 20  # asked with its own invocation


def test_requirements_as_trained(adapters: Callable[..., Path], data: Path, tmp_path: Path) -> None:
    checker = adapters("checker", {"labels": LABELS, "requirements": True})
    rows = [{"item": i, "requirement": "must be 'yes'", "label": "yes"} for i in ITEMS[:3]]
    asked = write(tmp_path / "asked.jsonl", rows)
    [with_them, without] = [
        json.loads(run(rows, "--adapter", folder, "--outdir", tmp_path / "o", "--json").stdout)["models"]["base"]
        for rows, folder in ((asked, checker), (data, adapters("plain", {"labels": LABELS})))
    ]
    assert with_them["cost"]["prompt_tokens"] > without["cost"]["prompt_tokens"]
    assert with_them["cost"]["computed_tokens"] > without["cost"]["computed_tokens"]  # the requirement is not context
    assert "'requirement' is missing" in run(data, "--adapter", checker, code=2).stderr
    plain = adapters("mine", {"labels": LABELS})
    line = run(asked, "--adapter", plain, "--requirement-field", "requirement", code=2).stderr
    assert "trained without requirements" in line


def test_no_model_is_served_by_what_another_one_computed(
    adapters: Callable[..., Path], data: Path, tmp_path: Path
) -> None:
    first, second = (adapters(name, {"labels": LABELS, "requirements": True}) for name in ("checker", "other"))
    rows = [{"item": i, "requirement": "must be 'yes'", "label": "yes"} for i in ITEMS[:4]]
    asked = write(tmp_path / "asked.jsonl", rows)
    result = run(asked, "--adapter", first, "--against", second, "--outdir", tmp_path / "o", "--json")
    costs = [entry["cost"] for entry in json.loads(result.stdout)["models"].values()]
    for name in ("prompt_tokens", "reused_tokens", "computed_tokens"):
        assert len({cost[name] for cost in costs}) == 1, (name, costs)
    assert 0 < costs[0]["reused_tokens"] < costs[0]["prompt_tokens"] - 10


def test_one_row_is_enough(adapters: Callable[..., Path], tmp_path: Path) -> None:
    row = write(tmp_path / "one.jsonl", [{"item": ITEMS[0], "label": "yes"}])
    found = run(row, "--adapter", adapters("mine", {"labels": LABELS}), "--outdir", tmp_path / "o", "--json").stdout
    assert (json.loads(found)["rows"], json.loads(found)["models"]["base"]["cost"]["rows"]) == (1, 1)


def test_context_ends_where_the_requirement_begins(model: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_pretrained(model)
    rows = [{"item": f"Requirement: {i} 🙂", "requirement": "🙂 yes", "label": "no"} for i in ITEMS[:2]]
    path = write(tmp_path / "rows.jsonl", rows)
    [asked, _] = load_examples(path, tokenizer, requirement_field="requirement")
    length = context_length(tokenizer, asked)
    assert tokenizer.decode(asked.prefix_ids[:length], skip_special_tokens=False).endswith("<|im_start|>user\n")
    assert tokenizer.decode(asked.prefix_ids[length:]).startswith("Requirement: 🙂 yes")


TEXTS = [json.dumps({"mode": label, "why": "x"}) for label in ("a", "b", "a", "b")]


def test_texts_are_generated_and_their_fields_compared(
    model: Path, adapters: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tiny model writes no JSON, so what it generates is replaced; what it is asked is not."""
    folder = adapters("writer", {"answer": "text", "field": "mode"})
    data = write(tmp_path / "t.jsonl", [{"item": i, "label": t} for i, t in zip(ITEMS, TEXTS, strict=False)])
    real, asked = Engine.generate, []

    def scripted(self: Engine, prompts: Any, sampling: Any, adapter: Any = None) -> list[Any]:
        outputs = real(self, prompts, sampling, adapter)
        if sampling.max_tokens == 1:
            return outputs
        asked.append((adapter, len(prompts), sampling.max_tokens))
        said = ['{"mode": "a"}', '{"mode": "a"}', '{"mode": "z"}', "nothing"]
        texts = said if adapter else ["", "", "", '{"mode": "b"}']
        return [SimpleNamespace(text=t, usage=o.usage) for t, o in zip(texts, outputs, strict=False)]

    monkeypatch.setattr(Engine, "generate", scripted)
    found = json.loads(run(data, "--adapter", folder, "--outdir", tmp_path / "o", "--json").stdout)
    assert (found["answer"], found["field"], found["labels"]) == ("text", "mode", ["a", "b"])
    mine, base = found["models"]["adapter"], found["models"]["base"]
    assert (mine["accuracy"], mine["confusion"], mine["ece"]) == (0.25, [[1, 0, 1], [1, 0, 1]], None)
    assert (base["accuracy"], base["confusion"]) == (0.25, [[0, 0, 2], [0, 1, 1]])
    length = max(len(e.label_ids) for e in load_examples(data, Tokenizer.from_pretrained(model)))
    assert {call[:2] for call in asked} == {("adapter", 1), (None, 1), ("adapter", 4), (None, 4)}
    assert {call[2] for call in asked} == {length + 8}


def test_many_texts_are_counted_right() -> None:
    truth = [f"t{n}" for n in range(70)] + ["t0"] * 3
    rows = tuple(Example((1,), (2,), (3,), label) for label in truth)
    said = [Answer(text) for text in truth[:69]] + [Answer("t1"), Answer("t0"), Answer(""), Answer("new")]
    contender = Contender("adapter", "x", "adapter", rows, (), 0)
    report = report_of("d", "b", Answers("text", ()), 1.0, [contender], {"adapter": said}, {})
    found = report.figures["adapter"]
    assert found.accuracy == pytest.approx(70 / 73)
    assert len(found.labels) == 65
    assert found.labels[-1] == "(rarer)"
    assert found.confusion[-1][-2:] == (5, 0)
    assert sum(map(sum, found.confusion)) == 73


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--limit", "0"], "limit=0 must be at least 1"),
        (["--max-length", "0"], "max_length=0 must be at least 1"),
        (["--field", "mode"], "answers with one of its labels"),
        (["--against", "no-such-folder"], "'no-such-folder' is not a folder"),
        (["--max-length", "3"], "raise max_length"),
    ],
)
def test_arguments_that_cannot_be(
    adapters: Callable[..., Path], data: Path, tmp_path: Path, more: list[str], said: str
) -> None:
    folder = adapters("mine", {"labels": LABELS})
    assert said in run(data, "--adapter", folder, "--outdir", tmp_path / "o", *more, code=2).stderr.splitlines()[-1]


def test_labels_that_the_adapter_never_learned(adapters: Callable[..., Path], data: Path, tmp_path: Path) -> None:
    out = tmp_path / "o"
    line = run(data, "--adapter", adapters("mine", {"labels": ("no", "x")}), "--outdir", out, code=2).stderr
    assert "labels ['one', 'yes'] are none of those" in line
    assert not out.exists()


def test_nothing_is_written_into_an_adapter(adapters: Callable[..., Path], data: Path, tmp_path: Path) -> None:
    folder = adapters("mine", {"labels": LABELS})
    for out in (folder, folder / "sub"):
        assert "leaves alone" in run(data, "--adapter", folder, "--outdir", out, code=2).stderr
    assert not (folder / "sub").exists()
    assert "cannot be written" in run(data, "--adapter", folder, "--outdir", data / "x", code=2).stderr


def test_bad_arguments_need_no_torch(adapters: Callable[..., Path], data: Path) -> None:
    folder = adapters("mine", {"labels": LABELS})
    code = (
        "import sys\nfrom alorakit.bindings.cli.main import alora_app\n"
        f"for args in (['no-data', '--adapter', {str(folder)!r}], [{str(data)!r}, '--adapter', 'nowhere'],\n"
        f"             [{str(data)!r}, '--adapter', {str(folder)!r}, '--device', 'tpu']):\n"
        "    try:\n        alora_app()(['eval', *args])\n"
        "    except SystemExit as exc:\n        print(exc.code, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "False"] * 3
