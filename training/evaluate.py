"""Validation: loss, and accuracy by scoring every label, from the same forward pass."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from alorakit.training.data import Example
from alorakit.training.loss import Candidate, SuffixModel

MAX_LABELS = 64
ROWS_PER_PASS = 512
EXAMPLES_PER_PASS = 16


@dataclass(frozen=True)
class Evaluation:
    """What a validation pass found.

    Attributes:
        loss: Mean cross-entropy over label and EOS tokens, in nats.
        accuracy: Share of rows whose own label has the highest summed log-probability of all labels, EOS
            included; None if there are more than 64 labels.
        predictions: The label chosen for each row; empty if there are more than 64 labels.
    """

    loss: float
    accuracy: float | None
    predictions: tuple[str, ...]

    def metrics(self, prefix: str = "") -> dict[str, float]:
        """The figures by name; ``prefix`` is put before ``loss``."""
        known = {} if self.accuracy is None else {"accuracy": self.accuracy}
        return {f"{prefix}loss": self.loss, **known}


def label_ids(examples: Sequence[Example]) -> dict[str, tuple[int, ...]]:
    """Ids of each distinct label, sorted by label."""
    return {e.label: e.label_ids for e in sorted(examples, key=lambda e: e.label)}


@torch.no_grad()
def evaluate(
    model: SuffixModel,
    examples: Sequence[Example],
    labels: dict[str, tuple[int, ...]],
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Score rows with the adapter as it is, dropout off.

    Args:
        model: Base model and adapter; its ``lora.training`` is off on return.
        examples: At least one row.
        labels: The candidates, as :func:`label_ids` gives them.
        progress: Called with the number of rows done and of all rows.
    """
    model.lora.training = False
    others = labels if len(labels) <= MAX_LABELS else {}
    loss, num_tokens, predictions = 0.0, 0, []
    for batch in _batches(model, examples, sum(len(ids) for ids in others.values())):
        # The row's own label takes the ids it was laid out with.
        named = [{**others, e.label: e.label_ids} for e in batch]
        options = [[(*ids, model.eos_id) for ids in row.values()] for row in named]
        values = iter(model.log_probabilities(batch, options).tolist())
        for example, row, candidates in zip(batch, named, options, strict=True):
            scores = {name: _take(values, candidate) for name, candidate in zip(row, candidates, strict=True)}
            loss -= scores[example.label]
            num_tokens += len(model.answer(example))
            predictions.append(max(scores, key=lambda name: scores[name]))
        if progress:
            progress(len(predictions), len(examples))
    mean = loss / num_tokens
    if not others:
        return Evaluation(mean, None, ())
    hits = sum(guess == example.label for guess, example in zip(predictions, examples, strict=True))
    return Evaluation(mean, hits / len(examples), tuple(predictions))


def _take(values: Iterator[float], candidate: Candidate) -> float:
    return sum(next(values) for _ in candidate)


def _batches(model: SuffixModel, examples: Sequence[Example], branch_rows: int) -> Iterator[list[Example]]:
    batch: list[Example] = []
    num_rows = 0
    for example in examples:
        rows = len(model.trunk(example)) + (branch_rows or len(example.label_ids))
        if batch and (num_rows + rows > ROWS_PER_PASS or len(batch) == EXAMPLES_PER_PASS):
            yield batch
            batch, num_rows = [], 0
        batch.append(example)
        num_rows += rows
    if batch:
        yield batch
