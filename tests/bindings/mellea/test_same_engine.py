"""One program on both doors, with real forward passes: Mellea's session on MelleaBackend, and alorakit's own session.

The same model, adapters and settings; what the engine is asked, what is written and what is decided are compared.
"""

from types import SimpleNamespace
from typing import Any

import pytest

import alorakit.bindings.session as ours
from alorakit.engine.async_engine import AsyncEngine
from alorakit.engine.mixed import ScoreRequest
from tests.bindings.mellea.conftest import BASE, LABELS

GREEDY = {"temperature": 0.0, "max_new_tokens": 16}
NOTE = {"note": "High vibration at 3100 RPM, a café's pump leaks."}
CASES = [
    ("ChatContext", "RejectionSamplingStrategy", {}),
    ("ChatContext", "RepairTemplateStrategy", {"system_prompt": "Be kind."}),
    ("ChatContext", "MultiTurnStrategy", {}),
    ("SimpleContext", "RejectionSamplingStrategy", {"system_prompt": "Be kind."}),
    ("SimpleContext", "RepairTemplateStrategy", {}),
]


def mellea_names() -> Any:
    from mellea import MelleaSession
    from mellea.core import ModelOutputThunk
    from mellea.stdlib import requirements, sampling
    from mellea.stdlib.context import ChatContext, SimpleContext

    contexts = {"ChatContext": ChatContext, "SimpleContext": SimpleContext}
    names = {"MelleaSession": MelleaSession, "ModelOutputThunk": ModelOutputThunk, **contexts}
    return SimpleNamespace(**{**vars(requirements), **vars(sampling), **names})


def verdicts(found: Any) -> list[tuple[Any, ...]]:
    """What the judge wrote is compared, too: it is among the engine's answers."""
    return [(bool(verdict), verdict.error is None) for verdict in found]


def wrote_much(output: Any) -> bool:
    return len(str(output)) > 30


def program(api: Any, backend: Any, context: str, strategy: str) -> list[Any]:
    """Instructions with requirements of every kind, a chat, checks by the adapter and by the judge."""
    m = api.MelleaSession(backend, ctx=getattr(api, context)())
    fits = api.check("Be short.", api.simple_validate(lambda text: (len(text) < 20, f"{len(text)} letters")))
    checks = [
        *(api.req(f"The failure mode must not be '{label}'.") for label in LABELS),
        *(api.req(f"The failure mode must be '{label}'.") for label in LABELS),
    ]
    said: list[Any] = []
    result = m.instruct(
        "Write a triage summary based on this technician note: {{note}}",
        requirements=[checks[0], checks[4], fits],
        icl_examples=["Pump leaks: seal leak"],
        grounding_context={"log": "It hums at {{note}}"},
        user_variables=NOTE,
        strategy=getattr(api, strategy)(loop_budget=2),
        return_sampling_results=True,
    )
    said.append([result.success, [str(output) for output in result.sample_generations]])
    said += [
        sorted((r.description, bool(verdict)) for r, verdict in pairs) for pairs in result.sample_validations
    ]  # Mellea goes through a set
    said.append(m.chat("And what should be done?").content)
    said.append(verdicts(m.validate([*checks, fits])))
    said.append(str(m.instruct("Say it in one word.", strategy=None)))
    said.append(verdicts(m.validate(checks)))
    said.append(verdicts(m.validate(checks, output=api.ModelOutputThunk("The seal leaks."))))
    backend.default_to_constraint_checking_alora = False
    judged = [api.req("Be polite."), api.req("Write much.", output_to_bool=wrote_much)]
    said.append(verdicts(m.validate(judged)))
    said.append(verdicts(m.validate(judged, output=api.ModelOutputThunk("Written by hand."))))
    backend.default_to_constraint_checking_alora = True
    said.append(str(m.chat("Thanks.").content))
    said.append(len(m.ctx.as_list()))
    return said


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the engine is asked, each request with the texts of its answer."""
    seen: list[Any] = []
    batch = AsyncEngine.batch

    async def spy(self: AsyncEngine, requests: Any, priority: int = 0) -> Any:
        answers = await batch(self, requests, priority)
        for request, answer in zip(requests, answers, strict=True):
            scored = isinstance(request, ScoreRequest)
            how = tuple(request.candidates) if scored else request.sampling
            told: Any = (answer.best.text, tuple(round(c.probability, 4) for c in answer)) if scored else answer.text
            seen.append((tuple(request.prompt), request.adapter is None, repr(how), told))
        return answers

    monkeypatch.setattr(AsyncEngine, "batch", spy)
    return seen


@pytest.fixture
def both(base, new_backend):
    """Make both backends with the same adapters, and give them with their layers' names: Mellea's, then alorakit's."""
    from mellea.backends.adapters.adapter import CustomIntrinsicAdapter

    made = []

    def make(*folders, **options):
        theirs = new_backend(model_options=options)
        engine = {"dtype": "float32", "device": "cpu", "block_size": 16}
        own = ours.EngineBackend(str(base), model_options=options, **engine)
        made.append(own)
        for folder in folders:
            theirs.add_adapter(CustomIntrinsicAdapter(model_id=str(folder), base_model_name=BASE))
            own.add_adapter(ours.CustomIntrinsicAdapter(model_id=folder, base_model_name=BASE))
        return (mellea_names(), theirs), (ours, own)

    yield make
    for backend in made:
        backend.close()


@pytest.mark.filterwarnings("ignore:IntrinsicAdapter is deprecated", "ignore:Capability:UserWarning")
@pytest.mark.parametrize(("context", "strategy", "options"), CASES)
def test_both_doors_do_the_same(context, strategy, options, labels, both, asked):
    results, requests = [], []
    for api, backend in both(labels, **GREEDY, **options):
        results.append(program(api, backend, context, strategy))
        requests.append(sorted(asked))
        asked.clear()
    assert results[0] == results[1]
    assert requests[0] == requests[1]
    assert len(requests[0]) >= 20


def test_later_attempts_differ_in_alorakits_session_alone(both):
    texts = []
    for api, backend in both(max_new_tokens=12):
        never = api.check("No.", api.simple_validate(lambda text: False))
        strategy = api.RejectionSamplingStrategy(loop_budget=2)
        m = api.MelleaSession(backend, ctx=api.ChatContext())
        result = m.instruct("Say it.", requirements=[never], strategy=strategy, return_sampling_results=True)
        texts.append([str(output) for output in result.sample_generations])
    (greedy, again), (first, sampled) = texts
    assert greedy == again == first != sampled


@pytest.mark.filterwarnings("ignore:IntrinsicAdapter is deprecated", "ignore:Capability:UserWarning")
def test_what_a_requirement_quotes_comes_first_in_alorakits_session_alone(labels, new_labels, both, asked):
    checker = new_labels("requirement-check", ("yes", "no"))
    candidates = []
    for api, backend in both(labels, checker, **GREEDY):
        m = api.MelleaSession(backend, ctx=api.ChatContext())
        m.chat("The pump leaks.")
        m.validate(api.req("It must not be 'no_failure'."))
        candidates.append(asked[-1][2])
    assert candidates == [repr(("yes", "no")), repr(LABELS)]
