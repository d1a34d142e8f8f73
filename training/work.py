"""The passes of a training run, counted: kept prefixes, activations, time."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from alorakit.training.answers import Answers
from alorakit.training.config import TrainConfig
from alorakit.training.costs import ModelCosts
from alorakit.training.data import Example
from alorakit.training.prefix_cache import by_use, chosen, common_start


@dataclass(frozen=True)
class PrefixPlan:
    """What lies before the activation points.

    Attributes:
        distinct: Different prefixes of all rows; 0 for a LoRA.
        tokens: Theirs.
        bytes: Of all their keys and values.
        budget: Bytes that may be kept.
        kept: Prefixes that are computed once.
        recomputed: Prefixes that are computed in every epoch.
    """

    distinct: int
    tokens: int
    bytes: int
    budget: int
    kept: int
    recomputed: int


@dataclass(frozen=True)
class Seconds:
    """Estimated time, loading and saving left out.

    Attributes:
        prefixes: Prefixes that are kept.
        training: All epochs, prefixes that are not kept included.
        validation: After every epoch and once before.
        total: The sum.
    """

    prefixes: float
    training: float
    validation: float
    total: float


class Work:
    """The passes of a run, counted."""

    def __init__(
        self,
        costs: ModelCosts,
        config: TrainConfig,
        answers: Answers,
        training: Sequence[Example],
        validating: Sequence[Example],
        budget: int,
        pass_rows: int,
    ) -> None:
        """Choose the prefixes that are kept as the run does; ``pass_rows``: most rows that enter together."""
        self.costs, self.config, self.answers, self.budget = costs, config, answers, budget
        self.pass_rows = pass_rows
        self.training, self.validating = training, validating
        self.alora = config.adapter == "alora"
        self.distinct = by_use(example.prefix_ids for example in (*training, *validating) if self.alora)
        # What all begin with is computed once.
        self.header = len(common_start(min(self.distinct), max(self.distinct))) if len(self.distinct) > 1 else 0
        self.kept = set(chosen(self.distinct, costs.kv_bytes, budget))
        self.kept_bytes = sum(map(len, self.kept)) * costs.kv_bytes
        labels = {example.label: len(example.label_ids) for example in (*training, *validating)}
        self.label_rows, self.longest_label = sum(labels.values()), max(labels.values())

    def before(self, example: Example) -> int:
        """Tokens before the activation point."""
        return len(example.prefix_ids) if self.alora else 0

    def num_rows(self, example: Example) -> int:
        """Rows that a training row enters the model with; its EOS is only predicted."""
        return example.num_tokens - 1 - self.before(example)

    @property
    def batch_rows(self) -> int:
        """Rows of an average pass."""
        mean = sum(map(self.num_rows, self.training)) / len(self.training)
        whole = mean * min(self.config.batch_size * self.config.grad_accum, len(self.training))
        return max(1, round(mean), min(round(whole), self.pass_rows))

    def prefixes(self) -> PrefixPlan:
        """What is kept."""
        tokens, kept = sum(map(len, self.distinct)), len(self.kept)
        size = tokens * self.costs.kv_bytes
        return PrefixPlan(len(self.distinct), tokens, size, self.budget, kept, len(self.distinct) - kept)

    def activations(self, free: int) -> tuple[bool, int]:
        """Whether activations are computed again, and what the largest pass keeps; ``free``: beside the weights."""
        longest = sorted(self.training, key=self.num_rows, reverse=True)
        most = self.config.batch_size * self.config.grad_accum
        total = list(itertools.accumulate(map(self.num_rows, longest[:most])))
        largest = longest[: max(sum(rows <= self.pass_rows for rows in total), 1)]
        rows, read = sum(map(self.num_rows, largest)), sum(len(e.label_ids) + 1 for e in largest)
        sizes = [self.costs.activation_bytes(rows, sum(map(self.before, largest)), read, x) for x in (False, True)]
        room = free - self.kept_bytes - self.costs.adapter_bytes(self.config)
        chosen = self.config.activation_checkpointing
        again = sizes[False] > room // 2 if chosen is None else chosen
        return again, sizes[again]

    def seconds(self, rate: float, batch_rate: float, again: bool) -> Seconds:
        """Time of all passes, by the rates of large passes and of training batches, in operations a second.

        A backward pass costs about a forward pass: the base's weights are frozen, so only the gradients of inputs are
        computed.
        """
        epochs, evaluations = self.config.epochs, self.config.epochs + 1
        once = sum(map(self._prefix, self.kept)) + self.costs.forward(self.header)
        anew = sum(self._anew(e) for e in self.training)
        steps = (3 if again else 2) * sum(
            self.costs.forward(self.num_rows(e), self.before(e), len(e.label_ids) + 1) for e in self.training
        )
        scored = sum(self._anew(e) + self._validated(e) for e in self.validating)
        training = epochs * (anew / rate + steps / batch_rate)
        # Texts are generated a token at a time, so few rows enter at once.
        validation = evaluations * scored / (rate if self.answers.kind == "label" else batch_rate)
        return Seconds(once / rate, training, validation, once / rate + training + validation)

    def _prefix(self, prefix: tuple[int, ...]) -> float:
        return self.costs.forward(len(prefix) - self.header, self.header)

    def _anew(self, example: Example) -> float:
        missing = self.before(example) and example.prefix_ids not in self.kept
        return self._prefix(example.prefix_ids) if missing else 0.0

    def _validated(self, example: Example) -> float:
        """All labels scored at once; or a text's loss, and as many tokens generated."""
        trunk, own = self.num_rows(example) - len(example.label_ids), len(example.label_ids)
        answered = self.label_rows if self.answers.kind == "label" else 2 * own
        return self.costs.forward(trunk + answered, self.before(example), answered + 1)
