"""Validation: loss, and accuracy by scoring every label, or by generating where the answer is a text."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from alorakit.training.answers import EXTRA_TOKENS, Answers, parsed
from alorakit.training.data import Example
from alorakit.training.generate import generate
from alorakit.training.loss import SuffixModel

ROWS_PER_PASS = 512
EXAMPLES_PER_PASS = 16

Labels = Mapping[str, tuple[int, ...]]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Evaluation:
    """What a validation pass found.

    Attributes:
        loss: Mean cross-entropy over label and EOS tokens, in nats.
        accuracy: Share of rows that are answered right: their own label has the highest summed log-probability of
            all labels, EOS included; or, of texts, the parsed field of what is generated equals the label's.
        predictions: The label chosen for each row; of texts, the parsed field, "" where there is none.
        scores: For each row, the summed log-probability of every label, EOS included, in the labels' order; empty
            for texts.
    """

    loss: float
    accuracy: float
    predictions: tuple[str, ...]
    scores: tuple[tuple[float, ...], ...] = ()

    def metrics(self, prefix: str = "") -> dict[str, float]:
        """The figures by name; ``prefix`` is put before ``loss``."""
        return {f"{prefix}loss": self.loss, "accuracy": self.accuracy}


def label_ids(examples: Sequence[Example]) -> dict[str, tuple[int, ...]]:
    """Ids of each distinct label, sorted by label."""
    return {e.label: e.label_ids for e in sorted(examples, key=lambda e: e.label)}


@torch.no_grad()
def evaluate(
    model: SuffixModel,
    examples: Sequence[Example],
    answers: Answers,
    labels: Labels,
    decode: Callable[[Sequence[int]], str],
    progress: Progress | None = None,
) -> Evaluation:
    """Answer rows with the adapter as it is, dropout off. Rows count alike, whatever their weights.

    Args:
        model: Base model and adapter; its ``lora.training`` is off on return.
        examples: At least one row.
        answers: What the labels are.
        labels: Every label, as :func:`label_ids` gives them: what is scored; of texts, what says how long one is.
        decode: The tokenizer's; for texts.
        progress: Called with the number of rows done and of all rows.
    """
    model.lora.training = False
    if answers.kind == "text":
        return _evaluate_texts(model, examples, answers, labels, decode, progress)
    # The row's own label takes the ids it was laid out with.
    scores = _scores(model, examples, [{**labels, e.label: e.label_ids} for e in examples], progress)
    predictions = [max(row, key=lambda name: row[name]) for row in scores]
    return Evaluation(
        loss=_loss(model, examples, scores),
        accuracy=sum(guess == e.label for guess, e in zip(predictions, examples, strict=True)) / len(examples),
        predictions=tuple(predictions),
        scores=tuple(tuple(row[name] for name in labels) for row in scores),
    )


def _evaluate_texts(
    model: SuffixModel,
    examples: Sequence[Example],
    answers: Answers,
    labels: Labels,
    decode: Callable[[Sequence[int]], str],
    progress: Progress | None,
) -> Evaluation:
    scores = _scores(model, examples, [{e.label: e.label_ids} for e in examples], None)
    longest = max(len(ids) for ids in labels.values()) + EXTRA_TOKENS
    texts = [decode(ids) for ids in generate(model, examples, longest, progress)]
    found = [parsed(text, answers.field) for text in texts]
    wanted = [parsed(e.label, answers.field) for e in examples]
    hits = sum(value is not None and value == right for value, right in zip(found, wanted, strict=True))
    predictions = tuple("" if value is None else value for value in found)
    return Evaluation(_loss(model, examples, scores), hits / len(examples), predictions)


def _loss(model: SuffixModel, examples: Sequence[Example], scores: Sequence[Mapping[str, float]]) -> float:
    total = sum(row[example.label] for row, example in zip(scores, examples, strict=True))
    return -total / sum(len(model.answer(example)) for example in examples)


def _scores(
    model: SuffixModel, examples: Sequence[Example], options: Sequence[Labels], progress: Progress | None
) -> list[dict[str, float]]:
    """Summed log-probability of each row's options, EOS included."""
    scores: list[dict[str, float]] = [{} for _ in examples]
    for batch in _batches(model, examples, options):
        candidates = [[(*ids, model.eos_id) for ids in part.values()] for _, part in batch]
        values = iter(model.log_probabilities([examples[row] for row, _ in batch], candidates).tolist())
        for (row, part), tokens in zip(batch, candidates, strict=True):
            for name, candidate in zip(part, tokens, strict=True):
                scores[row][name] = sum(next(values) for _ in candidate)
        if progress:
            last, _ = batch[-1]
            progress(last + (len(scores[last]) == len(options[last])), len(examples))
    return scores


def _batches(
    model: SuffixModel, examples: Sequence[Example], options: Sequence[Labels]
) -> Iterator[list[tuple[int, Labels]]]:
    """Passes of about ``ROWS_PER_PASS`` model rows: which row of data, and which of its options."""
    batch: list[tuple[int, Labels]] = []
    num_rows = 0
    for row, labels in enumerate(options):
        for part in _parts(labels):
            rows = len(model.trunk(examples[row])) + sum(map(len, part.values()))
            if batch and (num_rows + rows > ROWS_PER_PASS or len(batch) == EXAMPLES_PER_PASS):
                yield batch
                batch, num_rows = [], 0
            batch.append((row, part))
            num_rows += rows
    if batch:
        yield batch


def _parts(labels: Labels) -> Iterator[Labels]:
    """Labels that are scored in one pass: of ``ROWS_PER_PASS`` tokens together, at least one."""
    part: dict[str, tuple[int, ...]] = {}
    for name, ids in labels.items():
        if part and sum(map(len, part.values())) + len(ids) > ROWS_PER_PASS:
            yield part
            part = {}
        part[name] = ids
    yield part
