"""Checks on an engine without a model: what is asked, of whom, and how the answer is read."""

import json
from pathlib import Path
from typing import Any

import pytest

from alorakit.bindings.checks.choose import CAPABILITY, choose_adapter
from alorakit.bindings.checks.question import question
from alorakit.bindings.session import (
    CBlock,
    ChatContext,
    Message,
    ModelOption,
    ModelOutputThunk,
    RejectionSamplingStrategy,
    Requirement,
    ValidationResult,
    check,
    req,
    simple_validate,
)
from alorakit.engine.errors import AdapterNotFoundError, CheckError, ConfigError, RequestError
from alorakit.engine.layouts import DEFAULT_INVOCATION
from alorakit.engine.manifest import Manifest
from alorakit.engine.tokenizer import Tokenizer
from alorakit.training import load_examples

LABELS = ("bearing", "no_failure")
FAILURES = Manifest(labels=LABELS, invocation="@")


def says(label: str) -> Any:
    """A scoring function that gives one label three quarters of the mass of two."""
    return lambda text: 3.0 if text == label else 1.0


def test_a_check_reads_the_chat_and_the_invocation(fake_engine: Any) -> None:
    engine = fake_engine(["hello"], says("bearing"))
    engine.register("failure", FAILURES)
    m = engine.session()
    m.chat("hi", model_options={ModelOption.SYSTEM_PROMPT: "Be kind"})
    [verdict] = m.validate(req("must not be 'no_failure'"))
    assert engine.scored == [("<system>Be kind<user>hi<assistant>hello@", list(LABELS), "failure", True)]
    assert verdict
    assert verdict.as_bool() is True
    assert verdict.label == "bearing"
    assert verdict.score == pytest.approx(0.75)
    assert verdict.probabilities == pytest.approx({"bearing": 0.75, "no_failure": 0.25})
    assert verdict.usage is not None
    assert verdict.usage.prompt_tokens - verdict.usage.cached_tokens == 3


def test_the_best_label_decides_and_the_score_is_the_passing_mass(fake_engine: Any) -> None:
    engine = fake_engine(score=says("c"))
    engine.register("failure", Manifest(labels=("a", "b", "c"), invocation="@", fail_labels=("c",)))
    [verdict] = engine.session().validate("any", output="x")
    assert not verdict
    assert verdict.score == pytest.approx(0.4)


def test_a_text_is_checked_as_a_training_row_is(fake_engine: Any) -> None:
    engine = fake_engine()
    engine.register("failure", FAILURES)
    m = engine.session(**{ModelOption.SYSTEM_PROMPT: "Be kind"})
    wanted = "must not be 'no_failure'"
    m.validate(wanted, output="note")
    m.validate([wanted], output=CBlock("note"))
    session_with_note = engine.session()
    session_with_note.ctx = ChatContext().add(Message("user", "note"))
    session_with_note.validate(req(wanted))
    assert [prompt for prompt, *_ in engine.scored] == ["<user>note@"] * 3


@pytest.mark.parametrize("field", [None, "ask"])
def test_a_check_asks_the_ids_that_training_learned(
    fake_engine: Any, tiny_tokenizer_dir: Path, tmp_path: Path, field: str | None
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(2 * (json.dumps({"item": "pump vibrates", "label": "bearing", "ask": "must be 'bearing'"}) + "\n"))
    tokenizer = Tokenizer.from_pretrained(tiny_tokenizer_dir)
    trained = load_examples(rows, tokenizer, requirement_field=field)[0]
    engine = fake_engine()
    engine.tokenizer = tokenizer
    manifest = Manifest(labels=LABELS, invocation=DEFAULT_INVOCATION, requirements=field is not None)
    engine.register("failure", manifest, invocation=DEFAULT_INVOCATION)
    engine.session().validate("must be 'bearing'", output="pump vibrates")
    assert engine.scored_ids == [[*trained.prefix_ids, *trained.invocation_ids]]


def test_an_output_is_checked_after_what_it_answers(fake_engine: Any) -> None:
    engine = fake_engine(["hello"])
    engine.register("failure", FAILURES)
    m = engine.session()
    wanted = "must not be 'no_failure'"
    m.validate(wanted, input="hi", output="hello")
    thunk = m.instruct("hi")
    m.reset()
    m.validate(wanted, output=thunk)
    m.validate(wanted, output=ModelOutputThunk("hello"))
    assert [prompt for prompt, *_ in engine.scored] == ["<user>hi<assistant>hello@"] * 2 + ["<user>hello@"]


def test_requirements_are_asked_only_of_adapters_trained_with_them(fake_engine: Any) -> None:
    engine = fake_engine()
    engine.register("checker", Manifest(labels=("yes", "no"), invocation="@", requirements=True))
    [verdict] = engine.session().validate("Be short", output="x")
    assert engine.scored[0][0] == "<user>x<user>Requirement: Be short@"
    assert verdict.label == "yes"


def test_a_lora_is_asked_with_the_words_it_was_trained_with(fake_engine: Any) -> None:
    engine = fake_engine()
    engine.register("plain", Manifest(labels=LABELS, invocation="[check]"), invocation=None)
    engine.session().validate("must be 'bearing'", output="x")
    assert engine.scored[0][0] == "<user>x[check]"


def test_a_function_decides_alone(fake_engine: Any) -> None:
    engine = fake_engine(["hello"])
    m = engine.session()
    m.chat("hi")
    longer = req("longer", simple_validate(lambda text: (len(text) > 3, f"{len(text)} characters")))
    results = m.validate([longer])
    assert [(bool(r), r.reason, r.label, r.probabilities) for r in results] == [(True, "5 characters", None, {})]
    assert [bool(r) for r in m.validate([longer], output="no")] == [False]
    assert engine.scored == []


def test_simple_validate_needs_an_output_and_a_bool(fake_engine: Any) -> None:
    m = fake_engine(["x"]).session()
    m.ctx = m.ctx.add(Message("user", "hi"))
    with pytest.warns(UserWarning, match="no model output"):
        assert not m.validate(req("x", simple_validate(lambda text: True)))[0]
    with pytest.raises(CheckError, match="returned 'yes'"):
        m.validate(req("x", simple_validate(lambda text: "yes")), output="x")


def test_nothing_to_validate_raises(fake_engine: Any) -> None:
    engine = fake_engine()
    m = engine.session()
    for _ in range(2):  # the judge, and then an adapter
        with pytest.raises(CheckError, match="nothing to validate"):
            m.validate("must be 'bearing'")
        engine.register("failure", FAILURES)
    with pytest.raises(RequestError, match="wrap it in req"):
        m.validate([3], output="x")


def test_a_check_takes_a_system_prompt_and_adapters_need_no_sampling_options(fake_engine: Any) -> None:
    engine = fake_engine()
    engine.register("failure", FAILURES)
    m = engine.session(**{ModelOption.TEMPERATURE: 1.0})
    m.validate("must be 'bearing'", output="x", model_options={ModelOption.SYSTEM_PROMPT: "Be kind"})
    m.validate("must be 'bearing'", output="x", model_options={ModelOption.TEMPERATURE: 0.5})
    assert [prompt for prompt, *_ in engine.scored] == ["<system>Be kind<user>x@", "<user>x@"]
    with pytest.raises(ConfigError, match="temprature"):
        m.validate("must be 'bearing'", output="x", model_options={"temprature": 0.5})


def test_the_base_model_judges_where_no_adapter_does(fake_engine: Any) -> None:
    engine = fake_engine(["hello", "no", "Yes, it is."])
    m = engine.session()
    m.chat("hi")
    [verdict] = m.validate("Be rude")
    assert engine.prompts[1].startswith("<user>hi<assistant>hello<user>Check whether the output below")
    assert engine.prompts[1].endswith("\n  Output: hello\n  Requirement: Be rude<assistant>")
    assert (engine.params[1].max_tokens, engine.params[1].temperature, engine.asked[1]) == (256, 0.0, None)
    assert (bool(verdict), verdict.reason, verdict.score) == (False, "Be rude", None)
    assert verdict.thunk is not None and verdict.context is not None and verdict.usage is not None
    assert (str(verdict.thunk), verdict.context.node_data) == ("no", verdict.thunk)
    told = {ModelOption.TEMPERATURE: 0.5, ModelOption.MAX_NEW_TOKENS: 3}
    assert m.validate("Be rude", model_options=told)[0].reason == "Yes, it is."
    assert (engine.params[2].max_tokens, engine.params[2].temperature) == (3, 0.5)


def test_the_judge_answers_where_it_is_preferred_unless_an_adapter_is_named(fake_engine: Any) -> None:
    engine = fake_engine(["yes"])
    engine.register("failure", FAILURES)
    m = engine.session()
    m.backend.default_to_constraint_checking_alora = False
    assert m.validate("must be 'bearing'", output="x")[0]
    m.validate(req("must be 'bearing'", adapter="failure"), output="x")
    assert engine.asked == [None]
    assert [adapter for _, _, adapter, _ in engine.scored] == ["failure"]


def test_a_rule_of_ones_own_reads_an_adapters_answer(fake_engine: Any) -> None:
    engine = fake_engine([], says("bearing"))
    engine.register("failure", FAILURES)
    m = engine.session()
    [passed, broken] = m.validate(
        [req("anything", output_to_bool=lambda said: said == "bearing"), req("x", output_to_bool=lambda said: 1 / 0)],
        output="x",
    )
    assert (bool(passed), passed.label, passed.error) == (True, "bearing", None)
    assert not broken and isinstance(broken.error, ZeroDivisionError)


def test_all_models_are_asked_in_one_batch_and_functions_beside(fake_engine: Any) -> None:
    engine = fake_engine(["hello", "yes"])
    engine.register("failure", FAILURES)
    m = engine.session()
    m.backend.default_to_constraint_checking_alora = False

    class Own(Requirement):
        async def validate(self, backend: Any, ctx: Any, **given: Any) -> ValidationResult:
            return ValidationResult(True, reason="own")

    wanted = [
        req("must be 'bearing'", adapter="failure"),
        req("a", lambda ctx: False),
        Own("b"),
        req("Be kind"),
        check("must not be 'bearing'", adapter="failure"),
    ]
    result = m.instruct("hi", requirements=wanted, strategy=RejectionSamplingStrategy(), return_sampling_results=True)
    verdicts = [verdict for _, verdict in result.result_validations]
    assert [bool(v) for v in verdicts] == [True, False, True, True, False]
    assert engine.batches == [1, 3]


def test_what_cannot_be_checked_is_known_before_anything_is_generated(fake_engine: Any) -> None:
    engine = fake_engine(["x"])
    m = engine.session()
    for wanted in (req(), req("x", adapter="gone"), req("x", output_to_bool=None)):
        with pytest.raises((CheckError, AdapterNotFoundError)):
            m.instruct("A", requirements=[wanted])
    assert engine.prompts == [] and m.ctx.is_root_node


def test_the_judge_needs_words(fake_engine: Any) -> None:
    with pytest.raises(CheckError, match="without a description"):
        fake_engine().session().validate(req(), output="x")


def test_capability_goes_before_labels_and_a_name_before_both(fake_engine: Any) -> None:
    engine = fake_engine()
    engine.register("failure", FAILURES)
    engine.register("checker", Manifest(labels=("yes", "no"), invocation="@", capability="requirement-check"))
    m = engine.session()
    m.validate("Be short", output="x")
    m.validate(req("must be 'bearing'", adapter="failure"), output="x")
    assert [adapter for _, _, adapter, _ in engine.scored] == ["checker", "failure"]
    with pytest.raises(AdapterNotFoundError, match=r"'gone'.*checker"):
        m.validate(req("x", adapter="gone"), output="x")


def test_an_adapter_whose_label_is_quoted_goes_before_capability(fake_engine: Any) -> None:
    engine = fake_engine()
    engine.register("failure", FAILURES)
    engine.register("mood", Manifest(labels=("good", "bad"), invocation="@"))
    engine.register("checker", Manifest(labels=("yes", "no"), invocation="@", capability=CAPABILITY))
    adapters = engine.adapters
    chosen = {
        text: choose_adapter(adapters, requirement=text).name
        for text in ("must be 'bearing'", "must not be 'bad'", "must be 'yes'", "must be 'rust'", None)
    }
    assert list(chosen.values()) == ["failure", "mood", "checker", "checker", "checker"]
    assert choose_adapter(adapters, "checker", requirement="must be 'bearing'").name == "checker"
    engine.register("other", FAILURES)
    with pytest.raises(CheckError, match="'failure', 'other'"):
        choose_adapter(adapters, requirement="must be 'bearing'")


@pytest.mark.parametrize("nothing", [None, "", " "])
def test_an_adapter_trained_with_requirements_needs_one(fake_engine: Any, nothing: str | None) -> None:
    engine = fake_engine()
    engine.register("checker", Manifest(labels=("yes", "no"), invocation="@", requirements=True))
    with pytest.raises(CheckError, match=r"'checker' was trained with requirements; give one"):
        question(engine.tokenizer, engine.adapters["checker"], [{"role": "user", "content": "x"}], nothing)
    assert engine.scored == []


def test_several_candidates_and_foreign_adapters_raise(fake_engine: Any) -> None:
    engine = fake_engine()
    engine.register("foreign", None)
    m = engine.session()
    with pytest.raises(CheckError, match=r"no alorakit\.json"):
        m.validate("x", output="x")
    with pytest.raises(CheckError, match="'foreign' cannot check"):
        m.validate(req("x", adapter="foreign"), output="x")
    engine.register("one", FAILURES)
    engine.register("two", FAILURES)
    with pytest.raises(CheckError, match=r"'one', 'two'.*adapter=name"):
        m.validate("x", output="x")


def test_a_check_that_cannot_be_decided_runs_nothing(fake_engine: Any) -> None:
    engine = fake_engine()
    engine.register("failure", FAILURES)
    with pytest.raises(CheckError, match="--pass-label"):
        engine.session().validate("Be short", output="x")
    assert engine.scored == []
