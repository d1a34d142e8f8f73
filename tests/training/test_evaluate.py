from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from alorakit.engine.pretrained import resolve_model
from alorakit.training import evaluate as module
from alorakit.training.config import TrainConfig
from alorakit.training.data import Example
from alorakit.training.evaluate import evaluate, label_ids
from alorakit.training.loss import SuffixModel
from alorakit.training.prepare import build_model

Settings = Callable[..., TrainConfig]


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
    found = evaluate(model, examples, labels)

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


def test_many_labels_give_the_loss_alone(
    tiny_base: Path, examples: list[Example], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(tiny_base, examples, settings())
    scored = evaluate(model, examples, label_ids(examples))
    monkeypatch.setattr(module, "MAX_LABELS", 2)
    found = evaluate(model, examples, label_ids(examples))
    assert found.loss == pytest.approx(scored.loss, rel=1e-5)
    assert (found.accuracy, found.predictions, set(found.metrics("val_"))) == (None, (), {"val_loss"})


def test_every_row_of_a_short_pass_is_reported(tiny_base: Path, examples: list[Example], settings: Settings) -> None:
    seen: list[tuple[int, int]] = []
    model = build(tiny_base, examples, settings())
    evaluate(model, examples, label_ids(examples), lambda done, total: seen.append((done, total)))
    assert seen[-1] == (5, 5)
