"""What each model answers to each row, and what one check costs."""

import statistics
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from alorakit.bindings.cli.eval_rows import Contender
from alorakit.engine.engine import Engine
from alorakit.engine.request import SamplingParams, Usage
from alorakit.engine.tokenizer import Tokenizer
from alorakit.training.answers import EXTRA_TOKENS, Answers, parsed
from alorakit.training.data import Example
from alorakit.training.metrics import softmax

MAX_COST_ROWS = 20
ROWS_PER_BATCH = 32

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Answer:
    """The answer to one row.

    Attributes:
        text: A label; or of a text the parsed field, "" where there is none.
        probability: Of the label, calibrated; None for a text.
        uncalibrated: The same at a temperature of 1.
    """

    text: str
    probability: float | None = None
    uncalibrated: float | None = None


@dataclass(frozen=True)
class Cost:
    """One check whose context the base model has just read; medians over some rows.

    Attributes:
        rows: How many.
        prompt_tokens: Tokens that the check reads: the context, and what comes after it.
        reused_tokens: Those of them found in the KV cache.
        computed_tokens: Rows that went through the model, those of labels or of the answer included.
        milliseconds: Wall time.
    """

    rows: int
    prompt_tokens: float
    reused_tokens: float
    computed_tokens: float
    milliseconds: float


def answer_all(
    engine: Engine, answers: Answers, contenders: Sequence[Contender], progress: Progress | None = None
) -> dict[str, list[Answer]]:
    """Every model's answers to all rows, by its key.

    A row is asked of all models before the next one is, while its context is in the cache.
    """
    found: dict[str, list[Answer]] = {contender.key: [] for contender in contenders}
    num_rows = len(contenders[0].examples)
    size = 1 if answers.kind == "label" else ROWS_PER_BATCH
    for first in range(0, num_rows, size):
        last = min(first + size, num_rows)
        for contender in contenders:
            rows = contender.examples[first:last]
            if answers.kind == "label":
                found[contender.key] += [_choose(engine, contender, row) for row in rows]
            else:
                found[contender.key] += _generate(engine, answers, contender, rows)
        if progress:
            progress(last, num_rows)
    return found


def check_costs(
    engine: Engine, answers: Answers, contenders: Sequence[Contender], progress: Progress | None = None
) -> dict[str, Cost]:
    """Ask rows one by one, each right after the base model has read its context; the first one warms up.

    The models take turns, so that a busy machine slows them alike. To be called before these rows were asked of any of
    them, whose part of the cache would serve it otherwise.
    """
    rows = {contender.key: _distinct(contender.examples, MAX_COST_ROWS + 1) for contender in contenders}
    timed: dict[str, list[tuple[Usage, int, float]]] = {key: [] for key in rows}
    most = max(map(len, rows.values()))
    for at in range(most):
        for turn, contender in enumerate(contenders):
            if at < len(rows[contender.key]):
                timed[contender.key].append(_timed(engine, answers, contender, rows[contender.key][at], turn))
        if progress:
            progress(at + 1, most)
    return {key: _cost(found[1:] or found) for key, found in timed.items()}


def _cost(timed: Sequence[tuple[Usage, int, float]]) -> Cost:
    usages = [usage for usage, _, _ in timed]
    return Cost(
        rows=len(timed),
        prompt_tokens=statistics.median(usage.prompt_tokens for usage in usages),
        reused_tokens=statistics.median(usage.cached_tokens for usage in usages),
        computed_tokens=statistics.median(computed for _, computed, _ in timed),
        milliseconds=statistics.median(1e3 * seconds for _, _, seconds in timed),
    )


def context_length(tokenizer: Tokenizer, example: Example) -> int:
    """Tokens of a row before its requirement; without one, before the invocation."""
    ids = example.prefix_ids
    if not example.requirement:
        return len(ids)
    at = tokenizer.decode(ids, skip_special_tokens=False).rfind("Requirement: ")
    return bisect_right(
        range(len(ids) + 1), at, key=lambda count: len(tokenizer.decode(ids[:count], skip_special_tokens=False))
    ) - 1  # fmt: skip


def _timed(engine: Engine, answers: Answers, contender: Contender, row: Example, turn: int) -> tuple[Usage, int, float]:
    length = context_length(engine.tokenizer, row)
    context = _ended(row.prefix_ids[:length], turn)
    prompt = [*context, *row.prefix_ids[length:], *row.invocation_ids]
    if context:
        engine.generate([context], SamplingParams(max_tokens=1))
    before, started = engine.stats().tokens_computed, time.perf_counter()
    if answers.kind == "label":
        usage = engine.score(prompt, list(contender.labels), adapter=contender.adapter).usage
    else:
        usage = engine.generate([prompt], _sampling(contender), contender.adapter)[0].usage
    seconds = time.perf_counter() - started
    return usage, engine.stats().tokens_computed - before, seconds


def _ended(context: tuple[int, ...], turn: int) -> list[int]:
    """The context, its last token another one for each model.

    What a check computes between context and invocation is the base model's own, and would serve the next model's.
    """
    others = [token for token in dict.fromkeys(reversed(context)) if token != context[-1]]
    return [*context[:-1], others[turn - 1]] if 0 < turn <= len(others) else list(context)


def _choose(engine: Engine, contender: Contender, row: Example) -> Answer:
    scores = engine.score(_prompt(row), list(contender.labels), adapter=contender.adapter)
    best = max(range(len(scores)), key=lambda at: scores[at].logprob)
    plain = softmax([score.logprob for score in scores])
    return Answer(scores[best].text, scores[best].probability, float(plain[best]))


def _generate(engine: Engine, answers: Answers, contender: Contender, rows: Sequence[Example]) -> Iterator[Answer]:
    outputs = engine.generate([_prompt(row) for row in rows], _sampling(contender), contender.adapter)
    return (Answer(parsed(output.text, answers.field) or "") for output in outputs)


def _sampling(contender: Contender) -> SamplingParams:
    """Greedy, and room for the longest label and a little more."""
    return SamplingParams(max_tokens=max(len(row.label_ids) for row in contender.examples) + EXTRA_TOKENS)


def _prompt(row: Example) -> list[int]:
    return [*row.prefix_ids, *row.invocation_ids]


def _distinct(rows: Sequence[Example], most: int) -> list[Example]:
    """The first rows whose contexts differ: a row must not find its own check in the cache."""
    return list({row.prefix_ids: row for row in reversed(rows)}.values())[::-1][:most]
