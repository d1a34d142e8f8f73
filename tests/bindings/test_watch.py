"""Checks of an answer that is still being written: where they fall, what they compute, and that they stop it."""

import asyncio
import json
from pathlib import Path

import pytest

from alorakit import AsyncEngine, Engine, SamplingParams
from alorakit.bindings.checks.question import Question
from alorakit.bindings.checks.watch import Boundaries, checked_every, watch
from alorakit.engine.errors import ConfigError, RequestError
from alorakit.engine.mixed import ScoreRequest
from tests.bindings import served

base = served.random_base  # a fixture
INVOCATION = [301, 17, 302]
CONTEXT = list(range(10, 60))


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory) -> Path:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base),
        LoraConfig(r=4, target_modules=["q_proj"], alora_invocation_tokens=INVOCATION, task_type="CAUSAL_LM"),
    )
    folder = tmp_path_factory.mktemp("adapter")
    model.save_pretrained(folder)
    manifest = {"labels": ["yes", "no"], "pass_labels": ["yes", "no"], "invocation": "@"}
    (folder / "alorakit.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def run(base: Path, adapter: Path, every, passing, max_tokens=64, text=None, **config):
    """A watched answer and the statistics; ``passing`` says of a beginning whether the check passes.

    ``text``: what is written, by masks; None: what the model likes.
    """

    async def go():
        engine = Engine.from_pretrained(base, dtype="float32", device="cpu", block_size=16, **config)
        info = engine.add_adapter("check", adapter)
        async with AsyncEngine(engine) as serving:

            def questions(partial):
                labels = frozenset({"yes", "no"} if passing(partial) else ())
                ids = [*CONTEXT, *partial.token_ids, *INVOCATION]
                return [Question(info, ScoreRequest(ids, ["yes", "no"], "check"), labels)]

            how = {"ignore_eos": True} if text is None else {"structured": [text]}
            stream = serving.stream(CONTEXT, SamplingParams(max_tokens=max_tokens, **how))
            found = await watch(serving, stream, every, questions, ["ask"])
            await serving.drain()
            serving.check_integrity()
            return found, serving.stats()

    return asyncio.run(go())


def test_a_check_computes_its_own_suffix_only(base, adapter):
    found, stats = run(base, adapter, 8, lambda partial: True)
    assert not found.failed
    assert found.output is not None
    assert len(found.token_ids) == 64 == len(found.output.token_ids)
    assert len(found.checks) >= 4
    for check in found.checks:
        assert check.text == found.text[: len(check.text)]
        # All but the token that was sampled last, which has no KV yet, the invocation, and its own first row.
        assert check.usage.prompt_tokens == len(CONTEXT) + check.num_tokens + len(INVOCATION)
        assert check.usage.prompt_tokens - check.usage.cached_tokens <= len(INVOCATION) + 1
    rows = sum(c.usage.prompt_tokens - c.usage.cached_tokens for c in found.checks)
    assert stats.tokens_computed <= len(CONTEXT) + 64 + rows + 8 * len(found.checks)


def test_the_first_failure_stops_the_answer(base, adapter):
    found, stats = run(base, adapter, 8, lambda partial: len(partial.token_ids) < 16, max_tokens=400)
    assert found.failed
    assert found.output is None
    assert [check.passed for check in found.checks][-1] is False
    assert 16 <= found.checks[-1].num_tokens < 16 + 8
    assert len(found.token_ids) < 60
    assert stats.tokens_computed < 200


def test_a_sentence_that_fails_is_the_last_but_one(base, adapter):
    """Of a text that fails in its second sentence, at most the third is written, too."""
    text = "The pump runs well. The SEAL leaks. " + "It hums and is warm. " * 12
    whole, _ = run(base, adapter, "sentence", lambda partial: True, max_tokens=256, text=text.strip())
    assert whole.text == text.strip()
    assert len(whole.token_ids) > 100
    assert len(whole.checks) > 3
    found, stats = run(base, adapter, "sentence", lambda partial: "SEAL" not in partial.text, 256, text.strip())
    assert [check.passed for check in found.checks] == [True, False]
    assert found.checks[-1].text == "The pump runs well. The SEAL leaks."
    assert len(found.text) <= len("The pump runs well. The SEAL leaks. It hums and is warm.")
    assert len(found.token_ids) < len(whole.token_ids) / 2
    assert stats.tokens_decoded < len(whole.token_ids) / 2


def test_the_answer_is_the_same_as_without_checks(base, adapter):
    watched, _ = run(base, adapter, 4, lambda partial: True)
    alone, _ = run(base, adapter, 1000, lambda partial: True)
    assert alone.checks == []
    assert watched.token_ids == alone.token_ids


def test_an_error_of_a_check_gives_the_answer_up(base, adapter):
    def broken(partial):
        raise RequestError("no")

    with pytest.raises(RequestError, match="no"):
        run(base, adapter, 4, broken)


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, "word", []])
def test_check_every_is_checked(wrong):
    with pytest.raises(ConfigError, match="check_every"):
        checked_every(wrong)


def test_boundaries():
    pieces = [
        "It ",
        "is",
        " fine",
        ".",
        " The",
        " pump",
        " does",
        " 3.5",
        " rpm",
        "!",
        "\n",
        "1",
        ".",
        " One",
        "\n",
        "x",
    ]
    boundaries = Boundaries("sentence")
    found = [boundaries.add([index], piece) for index, piece in enumerate(pieces)]
    assert [partial.text for partial in found if partial] == [
        "It is fine.",
        "It is fine. The pump does 3.5 rpm!",
        "It is fine. The pump does 3.5 rpm!\n1. One",
    ]
    assert next(partial.token_ids for partial in found if partial) == (0, 1, 2, 3)
    every_third = Boundaries(3)
    found = [every_third.add([index], piece) for index, piece in enumerate(pieces[:8])]
    assert [index for index, partial in enumerate(found) if partial] == [2, 5]
