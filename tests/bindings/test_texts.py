"""Adapters that answer with a text: the session and ``m alora check``."""

from pathlib import Path
from typing import Any

import pytest

from alorakit.bindings.checks.question import MAX_ANSWER_TOKENS, question
from alorakit.bindings.cli import check as check_module
from alorakit.bindings.session import req
from alorakit.engine.errors import CheckError
from alorakit.engine.manifest import Manifest
from alorakit.engine.mixed import GenerateRequest, ScoreRequest

PARTS = Manifest(answer="text", field="part", invocation="@")
SAID = '{"part": "piston", "sure": 0.5}'


@pytest.mark.parametrize(
    ("said", "requirement", "passes", "label"),
    [
        (SAID, "must not be 'piston'", False, "piston"),
        (SAID, "must not be 'air filter'", True, "piston"),
        (SAID, "must be 'Piston' or 'air filter'", True, "piston"),
        ("no JSON", "must not be 'piston'", False, None),
    ],
)
def test_what_the_answer_says_decides(
    fake_engine: Any, said: str, requirement: str, passes: bool, label: str | None
) -> None:
    engine = fake_engine([said])
    engine.register("parts", PARTS)
    [verdict] = engine.session().validate(req(requirement), output="note")
    assert engine.prompts == ["<user>note@"]
    assert engine.asked == ["parts"]
    assert engine.params[0].max_tokens == MAX_ANSWER_TOKENS
    assert engine.params[0].temperature == 0.0
    assert (verdict.as_bool(), verdict.label, verdict.probabilities, verdict.score) == (passes, label, {}, None)
    assert said in verdict.reason
    assert ("no JSON object with the field 'part'" in verdict.reason) == (label is None)


def test_a_requirement_that_quotes_nothing_costs_nothing(fake_engine: Any) -> None:
    engine = fake_engine([])
    engine.register("parts", PARTS)
    with pytest.raises(CheckError, match="text of its own"):
        engine.session().validate(req("be nice"), output="note")
    with pytest.raises(CheckError, match="text of its own"):
        engine.session().instruct("say something", requirements=["be nice"])
    assert engine.prompts == []


def test_labels_are_scored_and_texts_are_written(fake_engine: Any) -> None:
    engine = fake_engine([])
    engine.register("parts", PARTS)
    engine.register("labels", Manifest(labels=("a", "b"), invocation="@"))
    chat = [{"role": "user", "content": "x"}]
    asked = {name: question(engine.tokenizer, info, chat, None, decide=False) for name, info in engine.adapters.items()}
    assert isinstance(asked["parts"].request, GenerateRequest)
    prompt, digest = asked["parts"].request.prompt, engine.adapters["labels"].digest
    assert asked["labels"].request == ScoreRequest(prompt, ["a", "b"], "labels", digest=digest)
    assert asked["parts"].passing is None and asked["labels"].passing is None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "parts"
    path.mkdir()
    (path / "adapter_config.json").write_text("{}")
    (path / "alorakit.json").write_text(PARTS.to_json())
    return path


def test_the_command_prints_the_answer_and_what_it_says(fake_engine: Any, folder: Path) -> None:
    engine = fake_engine(["x", SAID])
    report = check_module.run_check(engine, folder, "note", "must not be 'piston'")
    assert engine.prompts == ["<user>note", "<user>note@"]
    assert engine.asked == [None, "parts"]
    assert (report.answer, report.label, report.passed, report.probabilities) == (SAID, "piston", False, {})
    assert check_module.render(report).splitlines()[:2] == [f"answer   {SAID}", "label    piston (fails)"]


def test_the_command_without_a_requirement_and_an_answer_without_the_field(fake_engine: Any, folder: Path) -> None:
    report = check_module.run_check(fake_engine(["x", "{}"]), folder, "note", None)
    assert (report.label, report.passed) == (None, None)
    assert "label    none: the answer lacks its field" in check_module.render(report)
    with pytest.raises(CheckError):
        check_module.run_check(fake_engine([]), folder, "note", "be nice")
