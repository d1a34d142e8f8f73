"""Verdicts that must not come out upside down: of odd readers, of answers cut short, of adapters that change."""

import re
from pathlib import Path
from typing import Any

import pytest

from alorakit import AsyncEngine, Engine, EngineBackend, MelleaSession, req
from alorakit.bindings.checks.question import Question
from alorakit.bindings.session import ModelOption, RejectionSamplingStrategy
from alorakit.engine.errors import AdapterNotFoundError, CheckError, ClosedError
from alorakit.engine.manifest import Manifest
from alorakit.engine.mixed import GenerateRequest
from alorakit.engine.request import RequestOutput, Timing, Usage
from tests.engine.folders import make_adapter


@pytest.mark.parametrize("said", [None, "no", re.match("y", "yes"), 1.0], ids=repr)
def test_an_output_to_bool_returns_a_bool(fake_engine: Any, said: Any) -> None:
    m = fake_engine(["x", "yes"]).session()
    m.chat("hi")
    with pytest.raises(CheckError, match="what an output_to_bool returns must be bool"):
        m.validate(req("r", output_to_bool=lambda answer: said))


def test_a_text_that_closing_cut_short_is_no_verdict(engine: Engine) -> None:
    info = engine.adapters["parts"]
    cut = RequestOutput("ro", [1], "abort", None, None, "parts", None, Usage(3, 0, 1), Timing(0.0, 0.0, 0.0))
    with pytest.raises(ClosedError, match="closed before the check was answered"):
        Question(info, GenerateRequest([1]), None).verdict(cut)


def _swapped(monkeypatch: pytest.MonkeyPatch, engine: Engine, folder: Path) -> None:
    """After the first batch of checks, ``parts`` is another adapter."""
    batch = AsyncEngine.batch

    async def first(self: AsyncEngine, requests: Any, priority: int = 0) -> Any:
        answers = await batch(self, requests, priority)
        engine.add_adapter("parts", folder, replace=True)
        return answers

    monkeypatch.setattr(AsyncEngine, "batch", first)


def test_checks_while_writing_ask_the_adapter_that_has_the_name_now(
    engine: Engine, served_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = make_adapter(tmp_path / "other", served_folder / "model", ["q_proj"], 4, [301, 17, 302], 9)
    (other / "alorakit.json").write_text(Manifest(labels=("up", "down"), invocation="x", pass_labels=()).to_json())
    _swapped(monkeypatch, engine, other)
    backend = EngineBackend(engine=engine, model_options={ModelOption.MAX_NEW_TOKENS: 90, ModelOption.MIN_TOKENS: 90})
    m = MelleaSession(backend)
    result = m.instruct(
        "Say much",
        requirements=[req("r", adapter="parts")],
        strategy=RejectionSamplingStrategy(),
        return_sampling_results=True,
        check_every=4,
    )
    backend.close()
    labels = [check.label for check in result.checks]
    assert labels[0] in ("rod", "pump", "none")
    assert not result.success and labels[-1] in ("up", "down")


def test_an_adapter_replaced_under_a_question_is_asked_again(
    engine: Engine, session: Any, served_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from alorakit.bindings.session import watching

    make, left = watching.question, ["checker"]

    def late(*arguments: Any) -> Question:
        made = make(*arguments)
        if left:
            engine.add_adapter("parts", served_folder / left.pop(), replace=True)
        return made

    monkeypatch.setattr(watching, "question", late)
    options = {ModelOption.MAX_NEW_TOKENS: 40, ModelOption.MIN_TOKENS: 40}
    output = session().instruct(
        "Say much", requirements=[req("r", adapter="parts")], check_every=4, model_options=options
    )
    assert {check.label for check in output.checks} <= {"yes", "no"} and output.checks


def test_an_adapter_that_a_function_replaces_is_not_asked_the_old_question(
    engine: Engine, session: Any, served_folder: Path
) -> None:
    m = session()
    m.chat("hi")

    def replaces(ctx: Any) -> bool:
        engine.add_adapter("parts", served_folder / "checker", replace=True)
        return True

    with pytest.raises(AdapterNotFoundError, match="was replaced by another"):
        m.validate([req("f", replaces), req("r", adapter="parts")])
