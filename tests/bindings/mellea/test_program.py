"""Mellea's own imports, and one line changed: instruct, then check."""

import pytest
from mellea import MelleaSession
from mellea.backends.adapters import AdapterType
from mellea.backends.adapters.adapter import CustomIntrinsicAdapter
from mellea.stdlib.context import ChatContext
from mellea.stdlib.requirements import ALoraRequirement, req

from tests.bindings.mellea.conftest import BASE, LABELS

REQUIREMENTS = [
    "The failure mode must not be 'no_failure'.",
    "The failure mode must not be 'overheating'.",
    "The failure mode must not be 'seal leak'.",
    "The failure mode must be 'overheating'.",
    "The failure mode must be 'overheating' or 'seal leak'.",
]


@pytest.fixture
def session(backend, labels):
    backend.add_adapter(CustomIntrinsicAdapter(model_id=str(labels), base_model_name=BASE))
    return MelleaSession(backend, ctx=ChatContext())


def test_the_program(session):
    failure_check = req("The failure mode must not be 'no_failure'.")
    result = session.instruct(
        "Write a triage summary based on this technician note: {{note}}",
        user_variables={"note": "High vibration at 3100 RPM, connecting rod suspected."},
        requirements=[failure_check],
    )
    assert session.backend.list_adapters() == ["my_adapter_alora"]
    assert str(result) == result.value
    [verdict] = session.validate(failure_check)
    details = verdict.thunk._meta["alorakit"]
    assert bool(verdict) == (details["label"] != "no_failure")
    assert set(details["probabilities"]) == set(LABELS)
    assert verdict.thunk.value == ("yes" if verdict else "no")


def test_both_kinds_of_requirement_agree_whatever_the_likeliest_label(session):
    verdicts = set()
    for item in ("Note: a pump leaks", "Café, naïve", "1. one\n2. two", "yes or no?"):
        session.reset()
        session.chat(item)
        for text in REQUIREMENTS:
            [plain], [explicit], [named] = (
                session.validate(r) for r in (req(text), ALoraRequirement(text), ALoraRequirement(text, "my_adapter"))
            )
            details = plain.thunk._meta["alorakit"]
            label, quoted = details["label"], [name for name in LABELS if f"'{name}'" in text]
            assert bool(plain) == bool(explicit) == bool(named) == ((label in quoted) != ("not" in text))
            assert label == max(details["probabilities"], key=details["probabilities"].get)
            verdicts.add((bool(plain), explicit.thunk.value > "", len(quoted)))
            assert explicit.error is None and plain.error is None
    assert {passed for passed, _, _ in verdicts} == {True, False}


def test_a_score_says_the_verdict_where_the_passing_labels_outweigh_the_likeliest_only_together():
    from alorakit.bindings.checks.question import Verdict
    from alorakit.bindings.mellea.checks import said
    from alorakit.engine.request import Timing, Usage

    for passed, score in ((False, 0.6), (True, 0.4), (False, 0.5), (True, 0.50001), (True, 1.0000001), (False, -1e-9)):
        verdict = Verdict(passed, "x", "x", "", Usage(1, 0, 0), Timing(0, 0, 0), score=score)
        requirement = ALoraRequirement("It is so.")
        assert requirement.output_to_bool(said(requirement, verdict, None).text) is passed


def test_a_reader_of_ones_own_gets_the_label(session):
    session.chat("Say something.")
    seen = []

    def read(answer):
        seen.append(str(answer))
        return str(answer) in LABELS

    [verdict] = session.validate(req("It must be 'overheating'.", output_to_bool=read))
    assert bool(verdict) and len(seen) == 1 and seen[0] in LABELS


def test_a_reader_that_fails_is_a_failed_verdict_with_its_error(session):
    session.chat("Say something.")

    def read(answer):
        raise KeyError("no")

    [verdict] = session.validate(req("It must be 'overheating'.", output_to_bool=read))
    assert not verdict and isinstance(verdict.error, KeyError)


def test_a_failed_check_repairs(session):
    from mellea.stdlib.sampling import RejectionSamplingStrategy

    result = session.instruct(
        "Say something.",
        requirements=[req("It must be 'seal leak'."), req("It must be 'overheating'.")],
        strategy=RejectionSamplingStrategy(loop_budget=2),
        return_sampling_results=True,
    )
    assert not result.success  # the two contradict each other
    assert len(result.sample_generations) == 2
    assert [len(v) for v in result.sample_validations] == [2, 2]


def test_an_adapter_of_ones_own_name_by_its_type(session, labels):
    session.chat("Say something.")
    requirement = ALoraRequirement(REQUIREMENTS[0], "my_adapter", adapter_types=(AdapterType.ALORA,))
    [verdict] = session.validate(requirement)
    assert verdict.thunk.raw.response.activation is not None


def test_an_object_of_mellea_can_be_asked_about(backend, answered):
    from mellea.stdlib.components.mify import mify

    @mify
    class Plant:
        def __init__(self):
            self.pump = "leaks"

    session = MelleaSession(backend, ctx=ChatContext())
    thunk = session.query(Plant(), "What does the pump do?")
    assert thunk.value == answered[-1].text
    prompt = thunk._generate_log.prompt[-1]["content"]
    assert "What does the pump do?" in prompt
