"""The main job on a tiny model: train by the command line, check in a session, load in PEFT."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from alorakit import ChatContext, CustomIntrinsicAdapter, EngineBackend, MelleaSession, SamplingParams, check, req
from alorakit.bindings.session import Message
from alorakit.engine.tokenizer import Tokenizer
from alorakit.training import load_examples

LABELS = ("no_failure", "overheating", "seal leak")


@pytest.fixture(scope="module")
def base(tmp_path_factory, tiny_tokenizer_dir) -> Path:
    """A random Llama with the tiny tokenizer, as a folder named like a model."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("models") / "Tiny-Instruct"
    config = LlamaConfig(
        vocab_size=512, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=1024, eos_token_id=2, initializer_range=0.1,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    for file in tiny_tokenizer_dir.iterdir():
        shutil.copy(file, folder)
    return folder


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory) -> Path:
    """An adapter folder that ``m alora train`` wrote with the seed's flags alone."""
    from alorakit.bindings.cli.main import m_app

    folder = tmp_path_factory.mktemp("run")
    data = folder / "notes.jsonl"
    rows = [{"item": f"Note {i}: {LABELS[i % 3]} seen", "label": LABELS[i % 3]} for i in range(24)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    out = folder / "checkpoints" / "my_adapter"
    result = CliRunner().invoke(
        m_app(),
        ["alora", "train", str(data), "--basemodel", str(base), "--outfile", str(out), "--adapter", "alora",
         "--device", "cpu", "--epochs", "2", "--learning-rate", "1e-3", "--batch-size", "2", "--max-length", "256",
         "--grad-accum", "2"],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    return out


@pytest.fixture
def session(base, adapter):
    backend = EngineBackend(model_id=str(base), dtype="float32", block_size=16, model_options={"max_new_tokens": 20})
    backend.add_adapter(CustomIntrinsicAdapter(model_id=str(adapter), base_model_name="Tiny-Instruct"))
    yield MelleaSession(backend, ctx=ChatContext())
    backend.engine.check_integrity()
    backend.close()


def test_the_program(session, recwarn):
    failure_check = req("The failure mode must not be 'no_failure'.")
    result = session.instruct(
        "Write a triage summary based on this technician note: {{note}}",
        user_variables={"note": "High vibration at 3100 RPM, connecting rod suspected."},
        requirements=[failure_check],
    )
    assert str(result) == result.value
    assert "3100 RPM" in session.last_prompt()[-1]["content"]
    assert not [w for w in recwarn if issubclass(w.category, UserWarning) and "base model" in str(w.message)]
    [verdict] = session.validate(failure_check)
    assert bool(verdict) == (verdict.label != "no_failure")
    assert set(verdict.probabilities) == set(LABELS)


def test_a_check_after_instruct_computes_only_its_suffix(session):
    session.instruct("Say something.", strategy=None)
    engine = session.backend.engine
    output = session.ctx.last_output()
    prompt = engine.tokenizer.render([{"role": "user", "content": "Say something."}], add_generation_prompt=True)
    [verdict] = session.validate(check("The failure mode must not be 'no_failure'."))
    assert verdict.usage.cached_tokens >= len(prompt) + len(output.token_ids) - 1
    assert engine.stats().splice_fallbacks == 0


def test_session_and_score_ask_the_same_question(session, base, adapter, tmp_path):
    rows = [{"item": f"Item {i} seen", "label": "no_failure"} for i in range(6)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    engine = session.backend.engine
    for row, example in zip(rows, load_examples(path, Tokenizer.from_pretrained(base)), strict=True):
        scores = engine.score([*example.prefix_ids, *example.invocation_ids], list(LABELS), adapter="my_adapter")
        asked = req("It must be 'overheating'.")
        by_output = session.validate(asked, output=row["item"])[0]
        by_context = MelleaSession(session.backend, ChatContext().add(Message("user", row["item"]))).validate(asked)[0]
        for verdict in (by_output, by_context):
            assert verdict.label == scores.best.text
            assert verdict.probabilities == pytest.approx({s.text: s.probability for s in scores}, abs=1e-4)
            assert bool(verdict) == (scores.best.text == "overheating")


def test_peft_gives_the_same_logits_with_the_trained_folder(session, base, adapter):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    engine = session.backend.engine
    ids = engine.tokenizer.encode("Note 3: seen") + list(engine.adapters["my_adapter"].invocation_tokens)
    params = SamplingParams(max_tokens=1, logprobs=50)
    [output] = engine.generate(ids, params, adapter="my_adapter")
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter).eval()
    with torch.no_grad():
        want = model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
    for token, value in output.logprobs[0].items():
        assert value == pytest.approx(want[token].item(), abs=1e-3)


def test_check_command_reuses_what_the_base_model_read(adapter):
    from alorakit.bindings.cli.main import m_app

    result = CliRunner().invoke(m_app(), ["alora", "check", str(adapter), "Note 1: it leaks", "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout.strip().splitlines()[-1])
    assert report["label"] in LABELS
    assert report["reused_tokens"] == report["context_tokens"]


def test_a_requirement_that_cannot_be_checked_costs_nothing(session):
    from alorakit.engine.errors import CheckError

    with pytest.raises(CheckError):
        session.instruct("Say something.", requirements=["Be polite."])
    assert session.backend.engine.stats().requests == 0
    assert session.ctx.last_output() is None
