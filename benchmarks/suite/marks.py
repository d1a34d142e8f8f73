"""The table of marks: what the suite's own contests should reach, from their records."""

from collections.abc import Callable

from benchmarks.harness import Target
from benchmarks.roofline import check, seconds
from benchmarks.suite.checks import OWN
from benchmarks.suite.peers import LLAMA, LLAMA_ALORA, PEFT_ALORA, PEFT_LORA
from benchmarks.suite.records import Record, Results, paired
from benchmarks.suite.setup import ALORA, BASE, SCORE, Suite
from benchmarks.workloads import INVOCATION


def add_marks(suite: Suite, results: Results) -> None:
    """Compute what the records allow, and keep it."""
    length = suite.sizes.context
    at = {"context": length, "new": suite.sizes.new}
    ours = results.find("check", ALORA, **at)
    for peer, limit in ((PEFT_LORA, 13.0), (PEFT_ALORA, 2.5), (LLAMA, 1.0), (LLAMA_ALORA, 1.0)):
        _against(results, f"check at {length} tokens against {peer}", results.find("check", peer, **at), ours, limit)
    score = results.find("score", SCORE, context=length)
    _against(results, f"score at {length} tokens against {PEFT_LORA}", results.find("score", PEFT_LORA), score, 45.0)
    one, most = (results.find("several", ALORA, checks=num) for num in (1, 8))
    if one and most:
        results.targets.append(Target("8 checks against one", most.median / one.median, 3.0, at_least=False))
    _growth(suite, results)


def _against(results: Results, what: str, peer: Record | None, ours: Record | None, limit: float) -> None:
    if peer is not None and ours is not None:
        results.targets.append(Target(what, paired(peer, ours), limit))


def _growth(suite: Suite, results: Results) -> None:
    """How a check's time grows with the context, beside the roofline's and the base model's."""
    points = [(n, r) for n in suite.sizes.contexts if (r := results.find("check", ALORA, context=n))]
    if len(points) < 3:
        return

    def least(length: int) -> float:
        return seconds(check(suite.shape, length, OWN, suite.sizes.new, suite.lora, len(INVOCATION)), suite.machine)

    found = {
        ALORA: slope([n for n, _ in points], lambda n: dict(points)[n].median),
        "roofline": slope([n for n, _ in points], least),
    }
    base = {n: r for n in suite.sizes.contexts if (r := results.find("check", BASE, context=n))}
    found[BASE] = slope(list(base), lambda n: base[n].median)
    results.scripts["growth"] = {"seconds_per_1000_tokens": {name: 1000 * value for name, value in found.items()}}


def slope(lengths: list[int], value: Callable[[int], float]) -> float:
    """Of the straight line through the points, by least squares."""
    mean_x, values = sum(lengths) / len(lengths), [value(length) for length in lengths]
    mean_y = sum(values) / len(values)
    above = sum((x - mean_x) * (y - mean_y) for x, y in zip(lengths, values, strict=True))
    return above / sum((x - mean_x) ** 2 for x in lengths)
