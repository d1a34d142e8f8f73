"""The suite on a tiny model: all contestants run, peers that answer otherwise are not timed, losses are found."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from benchmarks.harness import Target
from benchmarks.suite import compare, run
from benchmarks.suite.contest import Answer, Contest, common
from benchmarks.suite.marks import slope
from benchmarks.suite.peers import PEFT_ALORA, PEFT_LORA
from benchmarks.suite.records import Record, Results, load, paired
from benchmarks.suite.report import write_report
from benchmarks.suite.setup import ALORA, BASE, FULL, LORA, QUICK

SCHEMA = json.loads((Path(__file__).parents[2] / "benchmarks/results/suite.schema.json").read_text(encoding="utf-8"))
ABOUT = {
    "device": "cpu", "processor": "p", "threads": 1, "cores": 2, "dtype": "float32", "model": "m", "seed": 0,
    "quick": True, "commit": "abc", "date": "2026-01-31", "bandwidth": 1e10, "matrix_rate": 1e11, "torch": "2",
    "python": "3",
}  # fmt: skip


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_dir: Path) -> Path:
    """A random two-layer Llama with the vocabulary that the suite draws its prompts from."""
    folder = tmp_path_factory.mktemp("tiny-llama")
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=49152, max_position_embeddings=2048, initializer_range=0.2,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    for file in tiny_tokenizer_dir.iterdir():
        shutil.copy(file, folder)
    return folder


@pytest.fixture(scope="module")
def ran(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """All parts but those that start processes."""
    out = tmp_path_factory.mktemp("suite")
    parts = "checks,outputs,several,score,chain,traffic"
    args = ["--tiny", "--model", str(tiny), "--dtype", "float32", "--device", "cpu", "--out", str(out), "--only", parts]
    assert run.main(args) == 0
    return load(next(out.glob("suite-*-quick.json")))


def test_a_run_follows_the_schema(ran):
    jsonschema.validate(json.loads(ran.path.read_text(encoding="utf-8")), SCHEMA)
    assert not ran.errors
    assert set(ran.part_seconds) == {"checks", "outputs", "several", "score", "chain", "traffic"}


def test_peers_answer_alike_and_are_timed(ran):
    for who in (BASE, ALORA, LORA, PEFT_ALORA, PEFT_LORA):
        assert ran.find("check", who, context=64) is not None, who


def test_what_was_computed_is_what_the_activation_point_leaves(ran):
    # Question and invocation, and the token that is decoded after the first one.
    alora, lora = (ran.find("check", who, context=64) for who in (ALORA, LORA))
    assert (alora.computed, alora.cached) == (20 + 3 + 1, 64)
    assert (lora.computed, lora.cached) == (64 + 20 + 3 + 1, 0)
    # The same question with another length of answer is no repetition.
    assert ran.find("output", LORA, new=2).computed == 64 + 20 + 3 + 1
    assert ran.find("several", ALORA, checks=2).computed == 2 * (20 + 3 + 1)
    assert ran.find("chain", LORA).computed > ran.find("chain", ALORA).computed


def test_every_kind_of_traffic_is_answered(ran):
    found = [r for r in ran.records if r.workload == "traffic"]
    assert len(found) == 9 and all(r.seconds for r in found)
    assert {r.point["popularity"] for r in found} == {"uniform", "zipf", "all distinct"}


def test_the_page_has_every_record_and_every_link_of_it_leads_somewhere(ran, tmp_path):
    page = write_report(ran.path, tmp_path).read_text(encoding="utf-8")
    assert ran.path.name in page and "## Mixed traffic" in page
    for name in ("bench-check.svg", "bench-several.svg"):
        assert f"]({name})" in page and (tmp_path / name).is_file()
    assert "## Training" not in page  # it was not run
    assert "nan" not in page.lower().split("## a check after")[1]


def test_a_whole_run_of_a_model_with_a_small_window_is_whole():
    trimmed = run.parts(replace(FULL, contexts=FULL.contexts[:2]))
    assert {"checks", "training", "throughput", "prefill", "decode", "mellea", "micro"} <= trimmed.keys()
    assert not {"throughput", "micro", "agent"} & run.parts(replace(QUICK, contexts=QUICK.contexts[:1])).keys()


def test_a_part_whose_process_fails_is_told_of_and_the_others_go_on(tiny, tmp_path, monkeypatch):
    def fails(suite, results, *sizes):
        raise SystemExit("alorakit ended with code 1")

    monkeypatch.setattr(run.processes, "training", fails)
    args = ["--tiny", "--model", str(tiny), "--dtype", "float32", "--device", "cpu", "--out", str(tmp_path)]
    assert run.main([*args, "--only", "score,training"]) == 1
    results = load(next(tmp_path.glob("suite-*-quick.json")))
    assert results.errors == {"training": "SystemExit: alorakit ended with code 1"}
    assert results.find("score", PEFT_LORA) is not None


def test_a_gpus_run_has_a_page_and_pictures_of_its_own(ran, tmp_path):
    results = load(ran.path)
    results.path, results.about["device"] = tmp_path / "suite-gpu.json", "nvidia-x"
    results.write()
    page = write_report(results.path, tmp_path)
    assert page.name == "benchmarks-gpu.md" and "](bench-check-gpu.svg)" in page.read_text(encoding="utf-8")
    assert (tmp_path / "bench-check-gpu.svg").is_file() and not (tmp_path / "bench-check.svg").exists()


def test_a_peer_that_answers_otherwise_is_named_and_not_timed():
    asked = []
    likely = [{1: -0.1}, {2: -0.5, 8: -0.7, 9: -2.0}, {3: -0.1}, {4: -0.1}]

    def ask(ids, logprobs=None):
        return lambda turn: asked.append((tuple(ids), turn)) or Answer(ids, 1.0, logprobs=logprobs)

    asks = {
        "ours": ask([1, 2, 3, 4], likely),
        "near": ask([1, 8, 5, 5]),
        "far": ask([1, 9, 3, 4]),
        "no": ask([7, 2, 3, 4]),
    }
    results = Results(None, {})
    Contest("check", {"n": 1}, asks, dict.fromkeys(["near", "far", "no"], "ours")).run(results, rounds=2)
    by_name = {record.contestant: record for record in results.records}
    for name, same in (("far", 1), ("no", 0)):
        part = f"{same} of 4 tokens are equal, then they part"
        assert (
            by_name[name].seconds == [] and by_name[name].note == f"answers otherwise than ours: {part}; {part}; {part}"
        )
    assert by_name["near"].seconds == by_name["ours"].seconds == [1.0, 1.0]
    assert "near tie" in by_name["near"].note and by_name["ours"].note == ""
    assert ((1, 9, 3, 4), 0) not in asked
    results = Results(None, {})
    Contest("check", {"n": 1}, {"ours": asks["ours"], "no": asks["no"]}, {"no": "ours"}, loose=frozenset({"no"})).run(
        results, rounds=2
    )
    assert results.records[1].seconds == [1.0, 1.0] and "otherwise" in results.records[1].note


def test_one_question_of_three_may_be_answered_otherwise():
    def peer(turn):
        return Answer([8 if turn == -1 else 1], 1.0)

    ours = Answer([1], 1.0, logprobs=[{1: -0.1, 8: -3.0}])
    results = Results(None, {})
    Contest("check", {"n": 1}, {"ours": lambda turn: ours, "peer": peer}, {"peer": "ours"}).run(results, rounds=1)
    assert results.records[1].seconds == [1.0] and results.records[1].note.startswith("0 of 1 tokens are equal")


def record(contestant: str, *seconds: float, **point: int) -> Record:
    return Record("check", contestant, point or {"context": 1}, list(seconds))


def test_ratios_are_taken_round_by_round():
    assert paired(record("a", 1.0, 20.0, 3.0), record("b", 2.0, 40.0, 1.0)) == 0.5
    assert paired(record("a", 1.0, 9.0), record("b", 2.0)) == 0.5  # the round that both were in
    assert record("a", 1.0, 2.0, 3.0, 4.0, 5.0).spread == pytest.approx(1 / 3)
    assert record("a", 1.0).spread == 0.0


@pytest.mark.parametrize(("factor", "worse"), [(1.1, 0), (0.5, 0), (1.2, 1)])
def test_a_ratio_that_got_worse_by_more_than_the_limit_is_a_loss(tmp_path, factor, worse):
    records = [record(ALORA, 1.0, 1.0), record(PEFT_ALORA, 2.0, 4.0), record(BASE, 1.0, 1.0)]
    paths = []
    for name, ours in (("old", 1.0), ("new", factor)):
        results = Results(tmp_path / f"{name}.json", ABOUT, [replace(records[0], seconds=[ours, ours]), *records[1:]])
        results.targets.append(Target("t", 1.0, 2.0))
        results.write()
        jsonschema.validate(json.loads(results.path.read_text(encoding="utf-8")), SCHEMA)
        paths.append(str(results.path))
    assert compare.main(paths) == worse


@pytest.mark.parametrize(
    ("factors", "worse"), [([1.0], 0), ([1.5, 1.1], 0), ([1.5, 1.3, 1.0], 0), ([1.5, 1.3, 1.4], 1)]
)
def test_a_loss_counts_if_three_runs_have_it(tmp_path, monkeypatch, factors, worse):
    made = iter(factors)

    def quick_run() -> Path:
        records = [record(ALORA, next(made)), record(PEFT_ALORA, 1.0)]
        Results(tmp_path / "new.json", ABOUT, records).write()
        return tmp_path / "new.json"

    old = Results(tmp_path / "old.json", ABOUT, [record(ALORA, 1.0), record(PEFT_ALORA, 1.0)])
    old.write()
    monkeypatch.setattr(compare, "_quick_run", quick_run)
    assert compare.main([str(old.path)]) == worse
    assert list(made) == []


def test_files_without_a_common_point_are_an_error(tmp_path):
    first, second = (
        Results(tmp_path / f"{n}.json", ABOUT, [record(ALORA, 1.0, n=n), record(BASE, 1.0, n=n)]) for n in (1, 2)
    )
    first.write()
    second.write()
    with pytest.raises(SystemExit, match="no point in common"):
        compare.main([str(first.path), str(second.path)])


def test_a_file_of_another_schema_is_refused(tmp_path):
    path = tmp_path / "old.json"
    path.write_text('{"schema": 0}', encoding="utf-8")
    with pytest.raises(SystemExit, match="run the suite again"):
        load(path)


def test_slope_and_common_start():
    assert slope([1, 2, 4], lambda n: 3 * n + 7) == pytest.approx(3)
    assert common([1, 2, 3], [1, 2, 4]) == 2 and common([1], [1, 2]) == 1


def test_a_busy_machine_is_said():
    results = Results(None, ABOUT, probes=[1.0, 1.3])
    assert results.to_json()["about"]["noisy"] and results.noise == pytest.approx(0.3)
