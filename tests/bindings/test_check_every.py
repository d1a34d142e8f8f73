"""Requirements that are checked while an answer is written, through a session."""

import asyncio
import json
import re
from pathlib import Path

import pytest

from alorakit import ChatContext, EngineBackend, MelleaSession, req
from alorakit.bindings.session import MultiTurnStrategy, RejectionSamplingStrategy, simple_validate
from alorakit.engine.errors import ConfigError
from tests.bindings import served
from tests.engine.folders import make_adapter

base = served.random_base  # a fixture
INVOCATION = [301, 17, 302]
OPTIONS = {"max_new_tokens": 96}


@pytest.fixture(scope="module")
def adapters(base, tmp_path_factory) -> dict[str, Path]:
    """Adapters whose every answer passes, or fails."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folders = {}
    for name, passes in (("passes", ["yes", "no"]), ("fails", [])):
        model = get_peft_model(
            AutoModelForCausalLM.from_pretrained(base),
            LoraConfig(r=4, target_modules=["q_proj"], alora_invocation_tokens=INVOCATION, task_type="CAUSAL_LM"),
        )
        folders[name] = tmp_path_factory.mktemp("adapters") / name
        model.save_pretrained(folders[name])
        fails = [label for label in ("yes", "no") if label not in passes]
        manifest = {"labels": ["yes", "no"], "pass_labels": passes, "fail_labels": fails, "invocation": "@"}
        (folders[name] / "alorakit.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folders


@pytest.fixture
def session(base, adapters):
    backend = EngineBackend(str(base), dtype="float32", device="cpu", block_size=16, model_options=OPTIONS)
    for name, folder in adapters.items():
        backend.engine.add_adapter(name, folder)
    yield MelleaSession(backend, ctx=ChatContext())
    backend.engine.check_integrity()
    backend.close()


def once(**options):
    return {"strategy": RejectionSamplingStrategy(loop_budget=1), "return_sampling_results": True, **options}


def test_an_answer_that_passes_is_the_same_as_without(session):
    good = req("good", adapter="passes")
    plain = session.clone().instruct("Say much", requirements=[good], **once())
    watched = session.clone().instruct("Say much", requirements=[good], check_every=8, **once())
    assert watched.success
    assert watched.value == plain.value
    assert watched.result.token_ids == plain.result.token_ids
    assert watched.result.finish_reason == "length"
    assert plain.checks == []
    tokens = [check.num_tokens for check in watched.checks]
    assert tokens == sorted(tokens)
    assert len(tokens) >= 4
    for check in watched.checks:
        assert (check.requirement, check.passed, check.probability) == ("good", True, pytest.approx(1.0))
        assert check.usage.prompt_tokens - check.usage.cached_tokens <= 12
        assert check.seconds > 0
    assert [bool(verdict) for _, verdict in watched.result_validations] == [True]


def test_the_first_failure_ends_the_attempt_and_the_next_one_begins(session):
    result = session.instruct(
        "Say much",
        requirements=[req("good", adapter="passes"), req("bad", adapter="fails")],
        strategy=RejectionSamplingStrategy(loop_budget=3),
        return_sampling_results=True,
        check_every=8,
    )
    assert not result.success
    assert len(result.sample_generations) == 3
    for output, verdicts in zip(result.sample_generations, result.sample_validations, strict=True):
        assert output.finish_reason == "check"
        assert 8 <= len(output.token_ids) < 48
        assert output.usage.completion_tokens == len(output.token_ids)
        assert [(r.description, bool(v)) for r, v in verdicts] == [("good", True), ("bad", False)]
        assert re.match(r"after ([89]|1[0-2]) tokens, adapter 'fails' answers", verdicts[1][1].reason)
    assert session.ctx.last_output() is result.result


def test_what_was_stopped_goes_on_to_be_repaired(session):
    result = session.instruct(
        "Say much",
        requirements=[req("bad", adapter="fails")],
        strategy=MultiTurnStrategy(loop_budget=2),
        return_sampling_results=True,
        check_every=8,
    )
    assert "tokens, adapter 'fails'" in str(result.sample_actions[1])
    assert len(session.ctx.as_list()) == 4


def test_functions_and_the_judge_wait_for_the_whole(session):
    seen = []
    function = req("long", simple_validate(lambda text: bool(seen.append(text)) or True))
    result = session.instruct(
        "Say much", requirements=[function, req("good", adapter="passes")], check_every=8, **once()
    )
    assert seen == [result.value]
    assert {check.requirement for check in result.checks} == {"good"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"check_every": 8, "requirements": [req("x", simple_validate(lambda text: True))]}, "an adapter checks"),
        ({"check_every": 8, "requirements": []}, "an adapter checks"),
        ({"check_every": 0, "requirements": [req("good", adapter="passes")]}, "check_every=0"),
        ({"check_every": 8, "strategy": None, "requirements": []}, "strategy"),
    ],
)
def test_bad_input(session, options, message):
    before = session.ctx
    with pytest.raises(ConfigError, match=message):
        session.instruct("Say", **options)
    assert session.ctx is before


def test_a_piece_that_takes_too_long_ends_the_call(session):
    before = session.ctx
    slow = {"model_options": {"stream": True, "stream_timeout": 1e-9}}
    with pytest.raises(TimeoutError, match="stream_timeout=1e-09 seconds"):
        session.instruct("Say", requirements=[req("good", adapter="passes")], check_every=8, **once(), **slow)
    assert session.ctx is before


def test_many_at_once(session):
    async def go():
        sessions = [session.clone() for _ in range(6)]
        return await asyncio.gather(
            *(
                s.ainstruct(f"Say {i}", requirements=[req("bad", adapter="fails")], check_every=8, **once())
                for i, s in enumerate(sessions)
            )
        )

    results = asyncio.run(go())
    assert all(result.result.finish_reason == "check" for result in results)


def test_the_example_of_the_page_on_sessions(base, tmp_path, monkeypatch, capsys):
    text = Path(__file__).parents[2].joinpath("docs/session.md").read_text(encoding="utf-8")
    [code] = re.findall(r"## Checks while writing.*?<!-- example -->\n```python\n(.*?)```", text, re.DOTALL)
    manifest = {"labels": ["no_failure", "wear"], "fail_labels": ["no_failure", "wear"], "invocation": "@"}
    (tmp_path / "checkpoints").mkdir()
    folder = make_adapter(tmp_path / "checkpoints" / "my_adapter", base, ["q_proj"], 4, INVOCATION, 0)
    (folder / "alorakit.json").write_text(json.dumps(manifest), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    name = "HuggingFaceTB/SmolLM2-135M-Instruct"
    code = code.replace(
        f'"{name}"', f'{str(base)!r}, dtype="float32", device="cpu", model_options={{"max_tokens": 64}}'
    )
    code = code.replace("SmolLM2-135M-Instruct", base.name).replace('check_every="sentence"', "check_every=8")
    exec(compile(code, "session.md", "exec"), {"__name__": "example"})
    first, check, *_ = capsys.readouterr().out.splitlines()  # later attempts are sampled, and may end by themselves
    assert first.startswith("check ")
    assert re.match(r"([89]|1[0-2]) The failure mode must not be 'no_failure'\. False ", check)
