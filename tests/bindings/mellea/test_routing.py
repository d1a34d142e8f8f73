"""Which adapter checks a requirement, and what it is asked."""

import json
import warnings

import pytest
from mellea import MelleaSession
from mellea.backends.adapters import AdapterType, IntrinsicAdapter
from mellea.stdlib.context import ChatContext
from mellea.stdlib.requirements import ALoraRequirement, LLMaJRequirement, Requirement, req, simple_validate

from alorakit.bindings.session.adapter import CustomIntrinsicAdapter
from alorakit.engine.errors import CheckError
from tests.bindings.mellea.conftest import OPENING, YES_NO

BOTH = (AdapterType.ALORA, AdapterType.LORA)
TEXT = "It must not be 'no_failure'."


def catalogued(folder, kind=AdapterType.ALORA, name="requirement-check"):
    """Mellea's adapter of its own catalog, its files in a folder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        adapter = IntrinsicAdapter(name, kind, config_dict=YES_NO)
    adapter.get_local_hf_path = lambda base_model_name: str(folder)
    return adapter


@pytest.fixture
def session(backend):
    session = MelleaSession(backend, ctx=ChatContext())
    session.chat("The pump leaks.")
    return session


def used(verdict):
    return verdict.thunk._meta["alorakit"]["adapter"]


@pytest.mark.parametrize("kind", [AdapterType.ALORA, AdapterType.LORA], ids=["alora", "lora"])
def test_requirement_check_of_mellea_answers_every_requirement_but_a_judges(session, new_adapter, kind):
    folder = new_adapter("checker", OPENING if kind is AdapterType.ALORA else None, YES_NO, seed=2)
    session.backend.add_adapter(catalogued(folder, kind))
    plain, explicit, judged, counted = session.validate(
        [
            req("It is short."),
            ALoraRequirement("It is short."),
            LLMaJRequirement("It is short."),
            Requirement("It is short.", validation_fn=simple_validate(lambda text: len(text) < 1000)),
        ]
    )
    assert used(plain) == used(explicit) == f"requirement-check_{kind.value}" and used(judged) is None
    assert counted.thunk is None and bool(counted)
    score = json.loads(explicit.thunk.value)["requirement_check"]["score"]
    assert plain.thunk._meta["alorakit"]["score"] == score and 0 <= score <= 1
    assert bool(plain) == bool(explicit) == (score > 0.5)
    assert (plain.thunk._meta["alorakit"]["activation"] == 0) == (kind is AdapterType.LORA)


@pytest.mark.parametrize(("answer", "passes"), [('"yes"', True), ('"no"', False)])
def test_a_plain_requirement_passes_by_the_score(session, checker, scripted, answer, passes):
    """Mellea's own backend looks for the word yes in the score's JSON, so that no plain requirement ever passes."""
    session.backend.add_adapter(catalogued(checker))
    scripted(answer)
    seen = []

    def own_reader(text):
        seen.append(json.loads(str(text)))
        return False

    plain, explicit, own = session.validate(
        [req("It is short."), ALoraRequirement("It is short."), req("It is short.", output_to_bool=own_reader)]
    )
    assert bool(plain) is bool(explicit) is passes
    assert plain.thunk.value == ("yes" if passes else "no")
    assert seen == [{"requirement_check": {"score": float(passes)}}] and not own


def test_an_answer_without_a_score_is_an_error(session, new_adapter, scripted):
    session.backend.add_adapter(catalogued(new_adapter("checker", OPENING, YES_NO)))
    entries = session.backend._adapters.entries
    io = entries["requirement-check_alora"].io
    io.config["transformations"] = []
    scripted('"yes"')
    with pytest.raises(CheckError, match="no score"):
        session.validate(req("It is short."))
    [explicit] = session.validate(ALoraRequirement("It is short."))
    assert not explicit and explicit.error is not None  # as in Mellea


def test_a_plain_requirement_fills_the_instruction(session, checker, answered):
    session.backend.add_adapter(catalogued(checker))
    [verdict] = session.validate(req("It is short."))
    prompt = verdict.thunk._generate_log.prompt
    assert [m["role"] for m in prompt] == ["user", "assistant", "user"]
    assert prompt[-1]["content"] == "<requirements>: It is short.\nSatisfied?"


def test_an_alora_goes_before_a_lora(session, new_adapter, checker):
    session.backend.add_adapter(catalogued(new_adapter("lora", None, YES_NO, seed=3), AdapterType.LORA))
    session.backend.add_adapter(catalogued(checker))
    [verdict] = session.validate(req("It is short."))
    assert used(verdict) == "requirement-check_alora"


def test_the_adapter_for_requirement_checks_goes_before_one_with_labels(session, checker, labels):
    session.backend.add_adapter(labels)
    session.backend.add_adapter(catalogued(checker))
    plain, named = session.validate([req(TEXT), ALoraRequirement(TEXT, "my_adapter", adapter_types=BOTH)])
    assert (used(plain), used(named)) == ("requirement-check_alora", "my_adapter_alora")


def test_a_label_adapter_answers_where_there_is_no_other(session, labels):
    session.backend.add_adapter(labels)
    [plain], [explicit] = session.validate(req(TEXT)), session.validate(ALoraRequirement(TEXT))
    assert used(plain) == used(explicit) == "my_adapter_alora"


def test_several_that_could_answer_are_an_error_that_names_them(session, labels, new_labels):
    session.backend.add_adapter(labels)
    session.backend.add_adapter(new_labels("other"))
    with pytest.raises(CheckError, match=r"my_adapter.*other"):
        session.validate(req("It must be 'overheating'."))


def test_the_labels_that_a_requirement_quotes_choose_the_adapter(session, labels, new_labels):
    session.backend.add_adapter(labels)
    session.backend.add_adapter(new_labels("colours", ("red", "blue")))
    [red], [hot] = session.validate(req("It must be 'red'.")), session.validate(req("It must be 'overheating'."))
    assert (used(red), used(hot)) == ("colours_alora", "my_adapter_alora")


def test_without_the_default_the_base_model_judges_what_is_plain(session, labels):
    session.backend.add_adapter(labels)
    session.backend.default_to_constraint_checking_alora = False
    [plain], [explicit] = session.validate(req("It is short.")), session.validate(ALoraRequirement(TEXT))
    assert used(plain) is None and used(explicit) == "my_adapter_alora"
    assert "It is short." in plain.thunk._generate_log.prompt[-1]["content"]


def test_without_adapters_the_base_model_judges(session):
    for requirement in (req("It is short."), ALoraRequirement("It is short."), LLMaJRequirement("It is short.")):
        [verdict] = session.validate(requirement)
        assert used(verdict) is None and verdict.thunk.value


def test_an_adapter_trained_for_checks_is_found_by_its_capability(session, labels, new_labels):
    session.backend.add_adapter(labels)
    yes = new_labels("checks", ("yes", "no"), capability="requirement-check", requirements=True)
    session.backend.add_adapter(CustomIntrinsicAdapter(model_id=yes, base_model_name="Tiny-Instruct"))
    [plain], [explicit] = session.validate(req("It is short.")), session.validate(ALoraRequirement("It is short."))
    assert used(plain) == used(explicit) == "checks_alora"
    assert bool(plain) == bool(explicit) == (plain.thunk._meta["alorakit"]["label"] == "yes")


def test_an_output_is_judged_in_the_place_of_the_last(session, labels):
    from mellea.core import CBlock, ModelOutputThunk

    session.backend.add_adapter(labels)
    [one] = session.validate(req(TEXT), output=ModelOutputThunk("Another text."))
    [two] = session.validate(req(TEXT), output=ModelOutputThunk("Another text."), input=CBlock("And a question"))
    texts = [[m["content"] for m in v.thunk._generate_log.prompt] for v in (one, two)]
    assert "Another text." in texts[0][-1] and "Another text." in texts[1][-1]
    assert any("And a question" in text for text in texts[1])
