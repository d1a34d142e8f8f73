"""The same programs on this session and on Mellea's: the same prompts, texts and verdicts."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

import alorakit.bindings.session as ours
from alorakit.bindings.session import ChatContext, EngineBackend, MelleaSession, SimpleContext
from tests.bindings.conftest import FakeAsyncEngine, FakeEngine
from tests.bindings.session_cases import cases
from tests.bindings.session_programs import PROGRAMS, Program, rendered

API = SimpleNamespace(**vars(ours), MObject=None)


def run(program: Program) -> list[Any]:
    """What a program returns, and what the model was asked, as JSON gives it back."""
    engines: list[FakeEngine] = []

    def session(answers: list[str], model_options: dict[str, Any] | None = None, chat: bool = True) -> MelleaSession:
        engines.append(FakeEngine(answers))
        served: Any = FakeAsyncEngine(engines[-1])
        backend = EngineBackend(engine=served, model_options=model_options)
        return MelleaSession(backend, ChatContext() if chat else SimpleContext())

    result = program(API, session)
    return json.loads(json.dumps([result, [prompt for engine in engines for prompt in engine.prompts]]))  # type: ignore[no-any-return]


@pytest.mark.filterwarnings("ignore:no model output")
@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_do_the_same(name: str, mellea_says: dict[str, Any]) -> None:
    assert run(PROGRAMS[name]) == mellea_says["programs"][name]


def test_prompts_are_the_same(mellea_says: dict[str, Any]) -> None:
    """Random instructions after random turns."""
    given = cases()
    for case, expected in zip(given, mellea_says["cases"], strict=True):
        assert run(lambda api, session, c=case: rendered(api, session, c)) == expected, case  # type: ignore[misc]
