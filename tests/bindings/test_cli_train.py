"""``m alora train``: what its flags become, and what it prints with a tiny model."""

import json
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig
from typer.testing import CliRunner

from alorakit.bindings.cli.main import alorakit_app, m_app
from alorakit.bindings.cli.train import DEFAULTS
from alorakit.bindings.cli.train_options import parse_bytes
from alorakit.bindings.cli.train_run import Job
from alorakit.engine.errors import ConfigError, TrainingError
from alorakit.training import costs
from alorakit.training.config import PRESET_PURPOSES, PRESETS, TrainConfig, preset

RUN = CliRunner()
NOTES = [{"item": f"Note {i}: it {'hums' if i % 2 else 'stalls'}", "label": f"label{i % 2}"} for i in range(10)]


def command(datafile: Path, out: Path, *more: str, base: object = "no/model") -> list[str]:
    return ["alora", "train", str(datafile), "--basemodel", str(base), "--outfile", str(out), *more]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def job_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Job]:
    """The job that some flags make."""
    seen: list[Job] = []
    monkeypatch.setattr("alorakit.bindings.cli.train.run", seen.append)

    def made(*flags: str) -> Job:
        result = RUN.invoke(alorakit_app(), command(tmp_path / "d", tmp_path / "o", *flags))
        assert result.exit_code == 0, result.output
        return seen[-1]

    return made


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_dir: Path) -> Path:
    """A random one-layer model."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=512,
        max_position_embeddings=512,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    for file in tiny_tokenizer_dir.iterdir():
        shutil.copy(file, folder)
    return folder


@dataclass(frozen=True)
class Report:
    """As much of a training run's report as the command reads."""

    path: Path
    best_epoch: int = 2
    tokens_per_s: float = 100.0
    metrics: Any = None
    before: Any = None
    recompute_seconds: float = 1.5
    prefixes: dict[str, int] = field(default_factory=lambda: {"recomputed": 3})


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    """Calls of a ``train`` that does nothing."""
    calls: list[dict[str, Any]] = []

    def train(base_model: object, examples: object, config: object, outfile: Path, **named: Any) -> Report:
        calls.append({"examples": examples, "config": config, **named})
        return Report(tmp_path / "o", metrics={"val_loss": 0.5}, before={"val_loss": 2.5})

    monkeypatch.setattr("alorakit.training.loop.train", train)
    return calls


# -- flags


def test_defaults_are_those_of_the_configuration(job_of: Callable[..., Job], tmp_path: Path) -> None:
    assert job_of() == Job(tmp_path / "d", "no/model", tmp_path / "o", DEFAULTS, "chat", None, None, 1024)
    assert (DEFAULTS.epochs, DEFAULTS.batch_size, DEFAULTS.grad_accum, DEFAULTS.learning_rate) == (6, 2, 4, 6e-6)


def test_flags_reach_the_configuration(job_of: Callable[..., Job], tmp_path: Path) -> None:
    (tmp_path / "prompt.json").write_text('{"invocation_prompt": "<check>"}')
    job = job_of(
        *shlex.split(
            "--adapter lora --epochs 1 --rank 4 --alpha 8 --dropout 0 --seed 3 --batch-size 1 --grad-accum 2 "
            "--dtype float32 --device cpu --learning-rate 0.1 --max-length 64 --layout mellea "
            "--requirement-field ask --pass-label a --pass-label b --fail-label c --scheduler cosine "
            "--warmup-ratio 0.1 --weight-decay 0.01 --max-grad-norm 0.5 --early-stopping 2 --best-by accuracy "
            "--save-steps 7 --prefix-memory 2G --answer text --field part --no-activation-checkpointing "
            "--capability triage --validation v.jsonl --resume --dry-run --json"
        ),
        "--target-modules",
        "q_proj, o_proj",
        "--promptfile",
        str(tmp_path / "prompt.json"),
    )
    assert job.config == TrainConfig(
        adapter="lora",
        rank=4,
        alpha=8,
        dropout=0,
        epochs=1,
        batch_size=1,
        grad_accum=2,
        learning_rate=0.1,
        scheduler="cosine",
        warmup_ratio=0.1,
        weight_decay=0.01,
        max_grad_norm=0.5,
        early_stopping=2,
        best_by="accuracy",
        save_steps=7,
        seed=3,
        device="cpu",
        dtype="float32",
        target_modules=("q_proj", "o_proj"),
        pass_labels=("a", "b"),
        fail_labels=("c",),
        capability="triage",
        answer="text",
        field="part",
        activation_checkpointing=False,
        prefix_memory=2 * 1024**3,
    )
    assert (job.layout, job.invocation, job.requirement_field, job.max_length) == ("mellea", "<check>", "ask", 64)
    assert (job.validation, job.resume, job.dry_run, job.as_json) == (Path("v.jsonl"), True, True, True)
    assert job_of("--val-fraction", "0.5").config == TrainConfig(val_fraction=0.5)


@pytest.mark.parametrize("name", PRESETS)
def test_a_flag_goes_before_the_preset(job_of: Callable[..., Job], name: str) -> None:
    assert job_of("--preset", name).config == TrainConfig(**preset(name, "alora"))
    assert job_of("--preset", name, "--adapter", "lora").config == TrainConfig(**PRESETS[name], adapter="lora")
    # A default that is spelled out is a flag that was given, too.
    changed = job_of("--preset", name, "--epochs", "6", "--scheduler", "constant", "--rank", "3").config
    assert changed == TrainConfig(**{**preset(name, "alora"), "epochs": 6, "scheduler": "constant", "rank": 3})


def test_an_alora_of_texts_is_scaled_as_a_lora_is() -> None:
    alora, lora = (TrainConfig(**preset("text", kind), adapter=kind) for kind in ("alora", "lora"))
    assert alora.alpha / alora.effective_rank == pytest.approx(lora.alpha / lora.effective_rank, rel=0.1)


def test_presets_are_explained() -> None:
    assert PRESETS.keys() == PRESET_PURPOSES.keys()
    shown = " ".join(RUN.invoke(m_app(), ["alora", "train", "--help"], env={"COLUMNS": "400"}).output.split())
    for name, purpose in PRESET_PURPOSES.items():
        assert f"{name}, {purpose}" in shown
    assert "The default is Mellea's; 0.001 suits" in shown
    result = RUN.invoke(m_app(), command(Path("d"), Path("o"), "--preset", "huge"))
    assert (result.exit_code, "preset='huge' is not one of small, text, large, mellea" in result.stderr) == (2, True)


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("1024", 1024), ("256M", 256 << 20), ("2G", 2 << 30), ("1GiB", 1 << 30), ("1gb", 1 << 30), ("5 k", 5120),
     ("1.5K", 1536), ("7B", 7), ("1T", 1 << 40), ("123456789012345678", 123456789012345678)],
)  # fmt: skip
def test_sizes(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "G", "-1", "1e9", "2X", "1 2", "1iB2", "inf", "१G", "9" * 5000])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ConfigError, match=r"prefix_memory=.* is no size; give bytes"):
        parse_bytes(text)


# -- runs


def test_what_train_is_called_with(base: Path, tmp_path: Path, trained: list[dict[str, Any]]) -> None:
    data = write(tmp_path / "d.jsonl", NOTES)
    result = RUN.invoke(m_app(), command(data, tmp_path / "o", base=base))
    assert result.exit_code == 0, result.output
    assert not trained[0].get("resume") and not trained[0].get("validation")
    lines = result.stdout.splitlines()
    assert lines[0] == str(data)
    assert [line.split()[0] for line in lines[1:5]] == ["training", "validation", "lengths", "labels"]
    assert lines[-1] == f"{tmp_path / 'o'}: best epoch 2 (val_loss 0.5; base model: val_loss 2.5), 100 tokens/s"
    assert result.stderr.splitlines()[-1] == f"try it: m alora check {tmp_path / 'o'} 'a text'"
    assert lines[-2] == "3 prefixes did not fit into memory; computing them anew took 1.5 s"

    more = write(tmp_path / "v.jsonl", [{**NOTES[0], "requirement": "It must hum."}])
    asked = write(tmp_path / "r.jsonl", [{**row, "requirement": "It must hum."} for row in NOTES])
    flags = ("--validation", str(more), "--resume", "--json")
    result = RUN.invoke(m_app(), command(asked, tmp_path / "o", *flags, base=base))
    assert result.exit_code == 0, result.output
    assert (len(trained[1]["examples"]), len(trained[1]["validation"]), trained[1]["resume"]) == (10, 1, True)
    assert trained[1]["config"].capability == "requirement-check"
    printed = json.loads(result.stdout)
    assert (printed["best_epoch"], printed["path"]) == (2, str(tmp_path / "o"))
    assert "1 validation rows are trained on too" in result.stderr


def test_an_interrupted_run_ends_as_one(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(TrainingError):
        exit_code = 130

    def train(*_: object, **__: object) -> None:
        raise Interrupted("interrupted after step 3, saved; go on with --resume")

    monkeypatch.setattr("alorakit.training.loop.train", train)
    result = RUN.invoke(m_app(), command(write(tmp_path / "d.jsonl", NOTES), tmp_path / "o", base=base))
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-1] == "interrupted after step 3, saved; go on with --resume"


@pytest.mark.parametrize("as_json", [False, True])
def test_a_dry_run_touches_nothing(
    base: Path, tmp_path: Path, trained: list[dict[str, Any]], as_json: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(costs, "MEASURE_SECONDS", 0.001)
    long = {"item": "it hums " * 400, "label": "label1"}
    data = write(tmp_path / "d.jsonl", [*NOTES, long])
    before = {str(p): p.stat().st_mtime_ns for folder in (tmp_path, base) for p in (folder, *folder.rglob("*"))}
    flags = ["--dry-run", "--max-length", "200", *(["--json"] if as_json else [])]
    result = RUN.invoke(m_app(), command(data, tmp_path / "a" / "b", *flags, base=base))
    assert result.exit_code == 0, result.output
    assert {str(p): p.stat().st_mtime_ns for folder in (tmp_path, base) for p in (folder, *folder.rglob("*"))} == before
    assert trained == []
    if as_json:
        planned = json.loads(result.stdout)
        assert (planned["steps"], planned["truncated"], planned["data"]["training"]["rows"]) == (12, 1, 9)
    else:
        words = [line.split()[0] for line in result.stdout.splitlines()[1:]]
        assert words == ["training", "validation", "lengths", "labels", "cut", "model", "steps", "prefixes", "time",
                         "memory"]  # fmt: skip


def test_bad_input_of_a_dry_run(base: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "d.jsonl", NOTES)
    strange = write(tmp_path / "v.jsonl", [{"item": "x", "label": "maybe"}])
    cases = [
        (("--dry-run", "--validation", str(tmp_path / "gone")), "gone is not a file"),
        (("--dry-run", "--validation", str(strange)), r"no training row has: 'maybe' (line 1)"),
        (("--dry-run", "--prefix-memory", "much"), "prefix_memory='much'"),
        (("--dry-run", "--requirement-field", ""), "requirement_field=''"),
        (("--validation", str(data), "--val-fraction", "0.2"), "takes their place; give one of them"),
    ]
    for flags, what in cases:
        result = RUN.invoke(m_app(), command(data, tmp_path / "o", *flags, base=base))
        [line] = result.stderr.splitlines()
        assert (result.exit_code, what in line) == (2, True), line
    result = RUN.invoke(m_app(), command(data, data, "--dry-run", base=base))
    assert (result.exit_code, "is a file" in result.stderr) == (2, True)
