"""The model card: its programs run, and no text breaks it."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from typer.testing import CliRunner

from alorakit import Engine, SamplingParams
from alorakit.engine.layouts import training_ids
from alorakit.engine.manifest import Manifest
from alorakit.engine.tokenizer import Tokenizer
from alorakit.training import ExampleList, TrainConfig, train
from alorakit.training.card import CardFacts, model_card
from alorakit.training.card_again import card_of
from alorakit.training.card_code import REQUIREMENT, TEXT, requirement_text
from alorakit.training.card_mark import is_untouched, marked
from alorakit.training.io_yaml import io_yaml
from tests.training.mellea_reader import mellea_folder

Settings = Callable[..., TrainConfig]
INVOCATION = "<|start_header_id|>check"
CASES = {
    "alora": ("alora", {}),
    "lora": ("lora", {}),
    "requirement": ("alora", {"requirements": True, "pass_labels": ("yes",), "fail_labels": ("one",)}),
    "requirement-decides": ("alora", {"requirements": True}),
    "mellea": ("alora", {"layout": "mellea"}),
    "mellea-lora-requirement": ("lora", {"layout": "mellea", "requirements": True}),
    "text": ("alora", {"answer": "text", "labels": ()}),
    "text-lora": ("lora", {"answer": "text", "labels": (), "requirements": True}),
    "field": ("alora", {"answer": "text", "labels": (), "field": 'a "mode"'}),
}


@pytest.fixture(scope="module")
def trained(tiny_base: Path, toy_rows: ExampleList, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of an adapter of either kind."""
    parent = tmp_path_factory.mktemp("trained")

    def folder(kind: Any) -> Path:
        if not (parent / kind).exists():
            config = TrainConfig(kind, rank=4, epochs=2, learning_rate=1e-2, device="cpu", dtype="float32")
            train(tiny_base, toy_rows[:8], config, parent / kind)
        return parent / kind

    return folder


class Card:
    """A card's programs, beside the folder they speak of."""

    def __init__(self, manifest: Manifest, kind: Any, folder: Path, work: Path) -> None:
        """Lay a copy of the adapter out as the manifest says."""
        self.manifest, self.folder = manifest, shutil.copytree(folder, work / "path" / "to" / "this" / "folder")
        (self.folder / "alorakit.json").write_text(manifest.to_json(), encoding="utf-8")
        (self.folder / "io.yaml").write_text(io_yaml(manifest), encoding="utf-8")
        text = model_card(manifest, TrainConfig(kind))
        self.programs = re.findall(r"^```(?:python|sh)\n(.*?)\n```$", text, re.DOTALL | re.MULTILINE)

    def program(self, word: str) -> str:
        [found] = [program for program in self.programs if word in program]
        return str(found)

    def run(self, word: str) -> dict[str, Any]:
        names: dict[str, Any] = {}
        exec(compile(self.program(word), word, "exec"), names)
        return names

    def asked(self, tokenizer: Tokenizer) -> list[int]:
        """What a training row of that text begins with."""
        ids = tokenizer.encode(INVOCATION, add_special_tokens=False)
        chat = [{"role": "user", "content": TEXT}]
        requirement = REQUIREMENT if self.manifest.requirements else None
        prefix, _ = training_ids(tokenizer, self.manifest.layout, chat, requirement, "yes", ids, INVOCATION)
        return prefix + ids


@pytest.fixture
def card(
    request: pytest.FixtureRequest,
    trained: Callable[[str], Path],
    tiny_base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Card:
    kind, changes = CASES[request.param]
    manifest = replace(
        Manifest(labels=("one", "yes"), base_model=str(tiny_base), invocation=INVOCATION, metrics={"val_loss": 1.0}),
        **changes,
    )
    monkeypatch.chdir(tmp_path)
    return Card(manifest, kind, trained(kind), tmp_path)


@pytest.mark.parametrize("card", CASES, indirect=True)
def test_the_engines_program_asks_as_trained(card: Card, capsys: pytest.CaptureFixture[str]) -> None:
    names = card.run("from alorakit import Engine")
    assert names["ids"] == card.asked(names["engine"].tokenizer)
    printed = capsys.readouterr().out
    if card.manifest.answer == "label":
        assert printed.split()[0] in card.manifest.labels
    else:
        assert printed == names["answer"].text + "\n"
    if card.manifest.field:
        assert re.match(r'\s*\{\s*"', printed)
    names["engine"].close()


@pytest.mark.parametrize("card", CASES, indirect=True)
def test_pefts_program_answers_as_the_engine_does(card: Card) -> None:
    names = card.run("from peft import PeftModel")
    engine = Engine.from_pretrained(card.manifest.base_model, dtype="float32", device="cpu")
    engine.add_adapter("check", card.folder)
    assert names["ids"] == card.asked(engine.tokenizer)
    found = names["output"][0, len(names["ids"]) :].tolist()
    [answer] = engine.generate(names["ids"], SamplingParams(max_tokens=len(found)), adapter="check")
    assert found == answer.token_ids
    engine.close()


@pytest.mark.parametrize("card", ["alora", "requirement", "requirement-decides"], indirect=True)
def test_the_session_and_the_command_line(card: Card, capsys: pytest.CaptureFixture[str]) -> None:
    from alorakit.bindings.cli.main import m_app

    names = card.run("MelleaSession")
    assert capsys.readouterr().out == f"{names['result']}\n"
    names["backend"].close()
    command = shlex.split(card.program("m alora check"))
    result = CliRunner().invoke(m_app(), command[1:])
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[0].split()[1] in card.manifest.labels


@pytest.mark.parametrize("card", ["alora", "requirement", "lora"], indirect=True)
def test_mellea_runs_its_program(card: Card, tmp_path: Path) -> None:
    mellea = mellea_folder()
    snapshot = tmp_path / "hub" / "models--user--repository" / "snapshots" / ("0" * 40)
    base = Path(card.manifest.base_model).name
    shutil.copytree(card.folder, snapshot / "check" / base / "lora")
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0" * 40)
    env = {**os.environ, "PYTHONPATH": str(mellea), "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", card.program("mellea")], env=env, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    printed = done.stdout.splitlines()[-1]
    if "IntrinsicsRewriter" in card.program("mellea"):
        assert INVOCATION in printed and "structured_outputs" in printed
    else:
        assert json.loads(printed)["label"] in card.manifest.labels


def test_a_card_holds_figures_settings_and_the_digest_of_the_data() -> None:
    manifest = Manifest(labels=("no", "yes"), base_model="org/Base", metrics={"val_loss": 0.5, "accuracy": 0.875})
    facts = CardFacts(
        data_digest="ab" * 32,
        num_train=80,
        num_val=20,
        before={"accuracy": 0.25},
        per_class=(("no", 0.1, 0.2, 0.3, 9), ("yes", 1.0, 1.0, 1.0, 11)),
        seconds=61.4,
        device="cpu",
        dtype="bfloat16",
        versions={"torch": "2.13.0"},
    )
    text = model_card(manifest, TrainConfig(rank=7, learning_rate=3e-4, pass_labels=("yes",)), facts)
    for cells in (
        ("accuracy", "0.8750", "0.2500"),
        ("val_loss", "0.5000", ""),
        ("`no`", "0.100", "0.200", "0.300", "9"),
        ("rank", "`7`"),
        ("learning_rate", "`0.0003`"),
        ("pass_labels", "`yes`"),
        ("SHA-256 of the tokenized rows", f"`{'ab' * 32}`"),
        ("rows", "80 trained on, 20 held out"),
        ("ran on", "`cpu`, `bfloat16`"),
        ("with", "`torch` `2.13.0`"),
    ):
        assert f"| {' | '.join(cells)} |" in text
    assert "![" in text and "](training.png)" in text
    assert "training.png" not in model_card(manifest, TrainConfig(), CardFacts(picture=False))


def test_a_card_is_made_again_as_training_made_it(trained: Callable[[str], Path]) -> None:
    for kind in ("alora", "lora"):
        written = (trained(kind) / "README.md").read_text(encoding="utf-8")
        assert card_of(trained(kind)) == written
        assert is_untouched(written) and "F1" in written and "`torch`" in written
        assert not is_untouched(written.replace("LoRA", "LORA", 1)) and not is_untouched(written + "more\n")
        assert is_untouched(marked(written + "more\n"))


PARSER = MarkdownIt().enable("table")
ODD = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("|`\\\n\r\u2028<>{}'\"#-:*_"), min_size=1)


@settings(deadline=None)
@given(st.lists(ODD, min_size=1, max_size=4, unique=True), ODD, ODD, st.sampled_from(["alora", "lora"]))
def test_no_text_breaks_a_card(labels: list[str], base: str, invocation: str, kind: Any) -> None:
    manifest = Manifest(
        labels=tuple(labels), base_model=base, invocation=invocation, capability=base, metrics={"accuracy": 1.0}
    )
    facts = CardFacts(per_class=tuple((label, 1.0, 1.0, 1.0, 1) for label in labels), num_train=1, device=base)
    # A label that can be quoted plainly gives the card one program more.
    names = tuple(
        f"{n}" if requirement_text(replace(manifest, labels=(label,))) else f"({n})" for n, label in enumerate(labels)
    )
    plain = replace(manifest, labels=names, base_model="b", invocation="i", capability="c")
    classes = tuple((name, 1.0, 1.0, 1.0, 1) for name in names)
    text = model_card(manifest, TrainConfig(kind), facts)
    wanted = model_card(plain, TrainConfig(kind), replace(facts, per_class=classes, device="b"))
    _, head, body = text.split("---\n", 2)
    assert yaml.safe_load(head)["base_model"] == base
    assert shape(body) == shape(wanted.split("---\n", 2)[2])
    assert {shown(label) for label in labels if label.strip()} <= spans(body)
    for program in re.findall(r"```python\n(.*?)\n```", text, re.DOTALL):
        compile(program, "card", "exec")


def shape(markdown: str) -> list[tuple[str, str]]:
    """The blocks of a text, without what they say."""
    return [(token.type, token.tag) for token in PARSER.parse(markdown)]


def spans(markdown: str) -> set[str]:
    """What stands in code spans."""
    inline = [child for token in PARSER.parse(markdown) for child in token.children or ()]
    return {token.content for token in inline if token.type == "code_inline"}


def shown(text: str) -> str:
    """A text as its code span shows it."""
    escaped = text.replace("\\", "\\\\")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in escaped)
