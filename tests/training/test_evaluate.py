from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from alorakit.engine.pretrained import resolve_model
from alorakit.training import evaluate as module
from alorakit.training.answers import EXTRA_TOKENS, Answers
from alorakit.training.config import TrainConfig
from alorakit.training.data import Example
from alorakit.training.evaluate import evaluate, label_ids
from alorakit.training.loss import SuffixModel
from alorakit.training.prepare import build_model

Settings = Callable[..., TrainConfig]
LABELS = Answers("label", ())


def no_text(ids: Sequence[int]) -> str:
    raise AssertionError("labels are scored, never decoded")


def build(base: Path, examples: list[Example], config: TrainConfig) -> SuffixModel:
    torch.manual_seed(0)
    model = build_model(resolve_model(base), examples, config)
    with torch.no_grad():
        for tensor in model.lora.parameters():
            tensor.normal_(std=0.1)
    return model


@pytest.mark.parametrize("rows_per_pass", [1, 512])
@pytest.mark.parametrize("adapter", ["alora", "lora"])
def test_branches_score_as_each_label_alone(
    tiny_base: Path,
    examples: list[Example],
    settings: Settings,
    adapter: str,
    rows_per_pass: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "ROWS_PER_PASS", rows_per_pass)
    model = build(tiny_base, examples, settings(adapter=adapter, dropout=0.5))
    labels = label_ids(examples)
    model.lora.training = True
    found = evaluate(model, examples, LABELS, labels, no_text)

    loss, guesses = 0.0, []
    for example in examples:
        alone = {
            name: model.log_probabilities([example], [[(*ids, model.eos_id)]]).sum().item()
            for name, ids in labels.items()
        }
        loss -= alone[example.label]
        guesses.append(max(alone, key=lambda name: alone[name]))
    assert found.loss == pytest.approx(loss / sum(len(model.answer(e)) for e in examples), rel=1e-5)
    assert list(found.predictions) == guesses
    assert found.accuracy == sum(g == e.label for g, e in zip(guesses, examples, strict=True)) / len(examples)


def test_scores_are_those_of_every_label_in_order(
    tiny_base: Path, examples: list[Example], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, labels = build(tiny_base, examples, settings()), label_ids(examples)
    found = evaluate(model, examples, LABELS, labels, no_text)
    for row, example in zip(found.scores, examples, strict=True):
        for score, ids in zip(row, labels.values(), strict=True):
            alone = model.log_probabilities([example], [[(*ids, model.eos_id)]]).sum().item()
            assert score == pytest.approx(alone, rel=1e-5)
    # Labels that do not fit into one pass are scored in several, with the same result.
    monkeypatch.setattr(module, "ROWS_PER_PASS", 4)
    split = evaluate(model, examples, LABELS, labels, no_text)
    assert torch.allclose(torch.tensor(split.scores), torch.tensor(found.scores), atol=1e-4)
    assert (split.predictions, split.metrics("val_")) == (
        found.predictions,
        pytest.approx({"val_loss": found.loss, "accuracy": found.accuracy}),
    )


def test_a_label_that_is_none_of_the_candidates(tiny_base: Path, examples: list[Example], settings: Settings) -> None:
    model, labels = build(tiny_base, examples, settings()), label_ids(examples[:1])
    found = evaluate(model, examples, LABELS, labels, no_text)
    assert found.loss == pytest.approx(evaluate(model, examples, LABELS, label_ids(examples), no_text).loss, rel=1e-5)
    assert {len(row) for row in found.scores} == {1}


def test_texts_are_generated_and_their_field_compared(
    tiny_base: Path, examples: list[Example], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(tiny_base, examples, settings(dropout=0.5))
    labels = ['{"mode": "a"}', '{"mode": "b"}', '{"mode": "c"}', '{"mode": ""}', "none"]
    rows = [replace(example, label=label) for example, label in zip(examples, labels, strict=True)]
    asked: list[int] = []

    def answers(model: SuffixModel, rows: object, max_tokens: int, progress: object) -> list[tuple[int, ...]]:
        asked.append(max_tokens)
        return [(row,) for row in range(5)]

    monkeypatch.setattr(module, "generate", answers)
    said = ['{"mode": "a", "why": "x"}', '{"mode": "c"}', "no JSON", '{"mode": ""}', "none"]
    found = evaluate(model, rows, Answers("text", (), "mode"), label_ids(rows), lambda ids: said[ids[0]])
    assert asked == [3 + EXTRA_TOKENS]
    assert found.predictions == ("a", "c", "", "", "")
    assert found.accuracy == 2 / 5
    assert found.scores == ()
    loss = evaluate(model, examples, LABELS, label_ids(examples), no_text).loss
    assert found.loss == pytest.approx(loss, rel=1e-5)
    assert evaluate(model, rows, Answers("text", ()), label_ids(rows), lambda ids: said[ids[0]]).accuracy == 2 / 5


def test_every_row_of_a_short_pass_is_reported(tiny_base: Path, examples: list[Example], settings: Settings) -> None:
    seen: list[tuple[int, int]] = []
    model = build(tiny_base, examples, settings())
    evaluate(model, examples, LABELS, label_ids(examples), no_text, lambda done, total: seen.append((done, total)))
    assert seen[-1] == (5, 5)
