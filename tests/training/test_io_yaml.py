"""io.yaml, read by Mellea's own parser."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from alorakit.bindings.checks.verdict import passing_labels
from alorakit.engine.errors import CheckError
from alorakit.engine.manifest import Manifest
from alorakit.engine.tokenizer import Tokenizer
from alorakit.training.io_yaml import io_yaml, passing
from tests.training.mellea_reader import mellea_folder

READER = Path(__file__).with_name("mellea_reader.py")
CHECK = Manifest(labels=("no", "yes"), capability="requirement-check", requirements=True, invocation="<|check|>")
NASTY = ('a "b"', "back\\slash", "line\nbreak", "two\u2028lines\x85", "é{0}", "- [x]: {y} # z", "`|`", " yes ", "null")
Case = dict[str, Any]
Read = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """What Mellea makes of manifests and answers."""
    mellea = mellea_folder()

    def run(*cases: tuple[Manifest, Case]) -> list[dict[str, Any]]:
        asked = []
        for number, (manifest, case) in enumerate(cases):
            path = tmp_path / f"{number}.yaml"
            path.write_text(io_yaml(manifest), encoding="utf-8")
            messages = [{"role": "user", "content": "It hums."}]
            asked.append({"config": str(path), "messages": messages, "arguments": {"requirement": "Be {kind}"}, **case})
        command = [sys.executable, str(READER), str(mellea)]
        done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        results: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
        return results

    return run


def token(text: str, logprob: float = 0.0, **others: float) -> dict[str, Any]:
    tops = [{"token": t, "logprob": p, "bytes": list(t.encode())} for t, p in others.items()]
    return {"token": text, "logprob": logprob, "bytes": list(text.encode()), "top_logprobs": tops}


def test_mellea_reads_what_each_kind_of_adapter_answers(read: Read) -> None:
    label = replace(CHECK, capability=None)
    cases: list[tuple[Manifest, Any, Any]] = [(replace(label, labels=NASTY), text, {"label": text}) for text in NASTY]
    cases += [
        (replace(label, labels=("1", "10", "-2")), 10, {"label": 10}),
        (replace(label, labels=("01", "1")), "01", {"label": "01"}),
        (replace(label, labels=("false", "true")), False, {"label": False}),
        (replace(label, labels=("kept", "sold"), capability="requirement-check"), "sold", {"label": "sold"}),
        (Manifest(answer="text", field="a b"), {"a b": "x", "c": 1}, {"a b": "x", "c": 1}),
        (Manifest(answer="text"), {"rows": [1]}, {"rows": [1]}),
    ]
    found = read(*((manifest, {"answer": json.dumps(answer)}) for manifest, answer, _ in cases))
    assert [json.loads(case["result"]) for case in found] == [wanted for _, _, wanted in cases]
    for (manifest, answer, _), case in zip(cases, found, strict=True):
        schema = case["request"]["extra_body"]["structured_outputs"]["json"]
        if manifest.answer == "label":
            assert answer in schema["enum"] and len(schema["enum"]) == len(manifest.labels)
        elif manifest.field:
            assert schema["required"] == [manifest.field]


def test_a_requirement_check_scores_from_0_to_1(read: Read) -> None:
    yes, no = token("yes", -0.1, no=-2.4), token("no", -0.3, yes=-1.4)
    true = token("true", -0.1, false=-2.4)
    told = replace(CHECK, labels=("ok", "leak", "noise"), pass_labels=("ok", "noise"))
    leak = token("le", -0.2, ok=-2.0, no=-4.0)
    cases = [
        (CHECK, '"yes"', [token('"'), yes, token('"')], 0.909),
        (CHECK, '"no"', [token('"'), no, token('"')], 0.25),
        (replace(CHECK, labels=("false", "true")), "true", [true], 0.909),
        (replace(CHECK, labels=("0", "1"), fail_labels=("0",)), "1", [token("1", -0.1, **{"0": -2.4})], 0.909),
        (told, '"leak"', [token('"'), leak, token("ak"), token('"')], 0.158),
    ]
    found = read(*((manifest, {"answer": answer, "tokens": tokens}) for manifest, answer, tokens, _ in cases))
    for case, (_, _, _, score) in zip(found, cases, strict=True):
        assert json.loads(case["result"]) == {"requirement_check": {"score": pytest.approx(score, abs=1e-3)}}
        assert case["request"]["logprobs"] is True


def test_the_request_ends_with_the_invocation_and_asks_greedily(read: Read) -> None:
    manifests = [
        CHECK,
        replace(CHECK, requirements=False, invocation="{braces}"),
        replace(CHECK, layout="mellea"),
        replace(CHECK, layout="mellea", requirements=False),
    ]
    found = read(*((manifest, {"answer": '"yes"', "tokens": [token('"yes"')]}) for manifest in manifests))
    assert [case["request"]["messages"][-1]["content"] for case in found] == [
        "Requirement: Be {kind}\n<|check|>",
        "{braces}",
        "Be {kind}\nRequirement: <|end_of_text|>\n<|check|>",
        "Requirement: <|end_of_text|>\n<|check|>",
    ]
    assert all(case["request"]["temperature"] == 0 and "model" not in case["request"] for case in found)


def test_mellea_cannot_read_a_bare_label(read: Read) -> None:
    # Why the schema asks for a JSON string, though the adapter was trained to answer without quotes.
    [found] = read((replace(CHECK, capability=None), {"answer": "yes"}))
    assert "JSONDecodeError" in found["result"]


def test_a_model_that_mellea_runs_answers_within_the_schema(read: Read, tiny_base: Path) -> None:
    label = replace(CHECK, capability=None, labels=("no failure", "é", "a much longer label than the others"))
    manifests = [label, replace(label, labels=("false", "true")), CHECK]
    found = read(*((manifest, {"model": str(tiny_base)}) for manifest in manifests))
    answers = [json.loads(case["answer"]) for case in found]
    assert answers[0] in label.labels and answers[1] in (True, False) and answers[2] in CHECK.labels
    assert json.loads(found[0]["result"]) == {"label": answers[0]}
    assert 0 <= json.loads(found[2]["result"])["requirement_check"]["score"] <= 1


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@settings(deadline=None)
@given(labels=st.lists(texts, min_size=1, max_size=4, unique=True), invocation=texts)
def test_any_text_survives(labels: list[str], invocation: str) -> None:
    read = yaml.safe_load(io_yaml(replace(CHECK, labels=tuple(labels), invocation=invocation)))
    enum = json.loads(read["response_format"])["enum"]
    assert [value if isinstance(value, str) else json.dumps(value) for value in enum] == labels
    assert read["instruction"].format(requirement="r") == f"Requirement: r\n{invocation}"
    assert set(read) == {"name", "model", "response_format", "transformations", "instruction", "parameters"}


def test_there_is_room_for_the_longest_answer(tiny_tokenizer_dir: Path) -> None:
    tokenizer = Tokenizer.from_pretrained(tiny_tokenizer_dir)
    for labels in (NASTY, ("你好", "no"), ("true", "false"), ("-12345", "7")):
        room = yaml.safe_load(io_yaml(replace(CHECK, labels=labels)))["parameters"]["max_completion_tokens"]
        values = labels if labels in (NASTY, ("你好", "no")) else [json.loads(label) for label in labels]
        longest = max(len(tokenizer.encode(json.dumps(value, ensure_ascii=False))) for value in values)
        assert longest < room <= 100


@pytest.mark.parametrize(
    ("labels", "passes", "fails"),
    [
        (("no", "yes"), None, None),
        (("False", "TRUE", "pass"), None, None),
        (("no_failure", "leak", "noise"), ("no_failure",), None),
        (("no_failure", "leak", "noise"), None, ("leak",)),
        (("no_failure", "leak", "noise"), ("no_failure", "noise"), ("leak",)),
        (("no_failure", "leak", "noise"), ("no_failure",), ("leak",)),
        (("no_failure", "leak"), None, None),
        (("no", "maybe"), None, None),
    ],
)
def test_the_labels_that_pass_are_those_of_a_session(
    labels: tuple[str, ...], passes: tuple[str, ...] | None, fails: tuple[str, ...] | None
) -> None:
    found = passing(Manifest(labels=labels, pass_labels=passes, fail_labels=fails))
    if found is None:
        with pytest.raises(CheckError):
            passing_labels(labels, None, passes, fails)
    else:
        assert found == passing_labels(labels, None, passes, fails)
