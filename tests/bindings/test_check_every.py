"""Requirements that are checked while an answer is written, through a session."""

import asyncio
import json
import re
from pathlib import Path

import pytest
import torch

from alorakit import ChatContext, EngineBackend, MelleaSession, req
from alorakit.bindings.session import MultiTurnStrategy, RejectionSamplingStrategy, simple_validate
from alorakit.engine.errors import ConfigError

INVOCATION = [301, 17, 302]
OPTIONS = {"max_new_tokens": 96}


@pytest.fixture(scope="module")
def base(tmp_path_factory, tiny_tokenizer_dir) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("model")
    config = LlamaConfig(
        vocab_size=512, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=2048, eos_token_id=2, initializer_range=0.1,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    for file in tiny_tokenizer_dir.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


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
