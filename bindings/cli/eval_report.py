"""The figures of an evaluation: computed from the answers, as ``eval.json``, as a picture and as tables."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import typer

from alorakit.bindings.cli.demo_table import print_table
from alorakit.bindings.cli.eval_measure import Answer, Cost
from alorakit.bindings.cli.eval_rows import Contender
from alorakit.training.answers import MAX_LABELS, Answers, parsed
from alorakit.training.charts import MAX_CLASSES, cut
from alorakit.training.metrics import Classification
from alorakit.training.pictures import evaluation_png

RARE = "(rarer)"
_HEAD = ("model", "accuracy", "macro F1", "ECE", "reused", "computed", "ms")
_LEGEND = "reused, computed, ms: one check whose context the base model has just read, in tokens and time (medians)"


@dataclass(frozen=True)
class EvalReport:
    """An evaluation.

    Attributes:
        data: Name of the file of rows.
        base_model: Name of the base model.
        answers: What the answers are.
        temperature: The adapter's.
        contenders: The models, the adapter first.
        figures: What each model's answers are worth, by its key.
        costs: What one check costs each, by its key.
        uncalibrated: The adapter's figures with probabilities taken at a temperature of 1.
    """

    data: str
    base_model: str
    answers: Answers
    temperature: float
    contenders: tuple[Contender, ...]
    figures: Mapping[str, Classification]
    costs: Mapping[str, Cost]
    uncalibrated: Classification

    def to_json(self) -> str:
        """Text of ``eval.json``; no rows of data, no paths."""
        plain = self.uncalibrated.to_json()
        models = {
            contender.key: {
                "name": contender.name,
                **self.figures[contender.key].to_json(),
                "cost": asdict(self.costs[contender.key]),
            }
            for contender in self.contenders
        }
        content = {
            "data": self.data,
            "rows": len(self.contenders[0].examples),
            "truncated": self.contenders[0].truncated,
            "base_model": self.base_model,
            "answer": self.answers.kind,
            "field": self.answers.field,
            "labels": self.figures["adapter"].labels,
            "temperature": self.temperature,
            "uncalibrated": {name: plain[name] for name in ("ece", "reliability")},
            "models": models,
        }
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"

    def to_png(self) -> bytes:
        """``eval.png``."""
        models = {contender.name: self.figures[contender.key] for contender in self.contenders}
        before = self.uncalibrated.reliability if self.temperature != 1 else ()
        return evaluation_png(models, self.contenders[0].name, before, self.temperature)

    def print(self) -> None:
        """Print the tables: the models, then the classes."""
        print_table(_HEAD, [self._row(contender) for contender in self.contenders])
        typer.echo(f"{_LEGEND}\n")
        main = self.figures["adapter"]
        common = sorted(main.labels, key=lambda label: -main.classes[label].support)[:MAX_CLASSES]
        rows = [
            (cut(label), str(part.support), *(f"{value:.3f}" for value in (part.precision, part.recall, part.f1)))
            for label, part in ((label, main.classes[label]) for label in common)
        ]
        left = f" ({len(common)} commonest of {len(main.labels)} classes)" if len(common) < len(main.labels) else ""
        head = ("class", "rows", "precision", "recall", "F1")
        print_table(head, rows, f"{self.contenders[0].name}{left}")

    def _row(self, contender: Contender) -> tuple[str, ...]:
        found, cost = self.figures[contender.key], self.costs[contender.key]
        return (
            contender.name,
            f"{found.accuracy:.1%}",
            f"{found.macro_f1:.3f}",
            "-" if found.ece is None else f"{found.ece:.3f}",
            f"{cost.reused_tokens:,.0f} of {cost.prompt_tokens:,.0f}",
            f"{cost.computed_tokens:,.0f}",
            f"{cost.milliseconds:,.1f}",
        )


def report_of(
    data: str,
    base_model: str,
    answers: Answers,
    temperature: float,
    contenders: Sequence[Contender],
    found: Mapping[str, Sequence[Answer]],
    costs: Mapping[str, Cost],
) -> EvalReport:
    """Compute the figures; arguments as in :class:`EvalReport`, ``found`` the answers by the models' keys."""
    truth = [
        example.label if answers.kind == "label" else parsed(example.label, answers.field) or ""
        for example in contenders[0].examples
    ]
    figures = {key: _figures(truth, given, answers) for key, given in found.items()}
    plain = [Answer(answer.text, answer.uncalibrated) for answer in found["adapter"]]
    uncalibrated = _figures(truth, plain, answers)
    return EvalReport(
        data, base_model, answers, temperature, tuple(contenders), figures, dict(costs), uncalibrated
    )  # fmt: skip


def _figures(truth: Sequence[str], given: Sequence[Answer], answers: Answers) -> Classification:
    texts = [answer.text for answer in given]
    if answers.kind == "label":
        probabilities = [answer.probability for answer in given if answer.probability is not None]
        return Classification.of(truth, texts, answers.labels, probabilities)
    common = {text for text, _ in Counter(truth).most_common(MAX_LABELS)}
    if len(set(truth)) == len(common):
        return Classification.of(truth, texts, sorted(common))
    # Too many classes for a matrix: the rarer ones are one, whose answers are right or "other".
    merged = [text if text in common else RARE for text in truth]
    texts = [
        text if text in common else RARE if text == right else ""
        for text, right in zip(texts, truth, strict=True)
    ]  # fmt: skip
    return Classification.of(merged, texts, [*sorted(common), RARE])
