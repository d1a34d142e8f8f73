"""Which labels pass a check: told by the trainer, known words, or quoted by the requirement."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from alorakit.bindings.checks.wording import Mention, Side, mentions
from alorakit.engine.errors import CheckError
from alorakit.engine.manifest import FAIL_WORDS, PASS_WORDS

_REMEDY = (
    "word it as must be 'X' or must not be 'X', train with --pass-label/--fail-label, "
    "or set pass_labels in the adapter's alorakit.json"
)


def passing_labels(
    labels: Sequence[str],
    requirement: str | None,
    pass_labels: Iterable[str] | None = None,
    fail_labels: Iterable[str] | None = None,
) -> frozenset[str]:
    """Decide which labels of an adapter pass a check.

    In this order: the labels told to the trainer; yes/true/pass against no/false/fail, if every label is one of
    these; the labels that the requirement quotes ("must not be 'X'": X fails; "must be 'X'": only X passes). A
    requirement that plainly says the opposite of the first two is an error.

    Args:
        labels: Every label of the adapter.
        requirement: The requirement in words; None if there is none.
        pass_labels: Labels that pass, if told; with ``fail_labels`` None every other label fails.
        fail_labels: Labels that fail, if told; with ``pass_labels`` None every other label passes.

    Returns:
        The labels that pass, a subset of ``labels``.

    Raises:
        CheckError: The told labels are unknown or contradict each other or the requirement, or nothing decides.
    """
    if pass_labels is not None or fail_labels is not None:
        passing = _told(labels, pass_labels, fail_labels)
    elif labels and all(label.casefold() in PASS_WORDS | FAIL_WORDS for label in labels):
        passing = frozenset(label for label in labels if label.casefold() in PASS_WORDS)
    else:
        return _quoted(labels, requirement or "")
    for mention, meant in _mentioned(labels, requirement or ""):
        asked, forbidden = mention.side is Side.ONLY, mention.side is Side.NEVER
        if (asked and meant - passing) or (forbidden and meant & passing):
            said, fixed = ("passes", "fails") if asked else ("fails", "passes")
            raise CheckError(
                f"the requirement {requirement!r} says that {mention.text!r} {said}, but for this adapter it {fixed} "
                f"(passing are {sorted(passing)}); reword it, or change pass_labels in the adapter's alorakit.json"
            )
    return passing


def quoted_labels(labels: Sequence[str], requirement: str) -> frozenset[str]:
    """The labels that a requirement quotes, whatever it says about them.

    Args:
        labels: Every label of an adapter.
        requirement: The requirement in words.
    """
    return frozenset(label for _, meant in _mentioned(labels, requirement) for label in meant)


@dataclass(frozen=True)
class Demand:
    """What a requirement says of an answer that may be any text; case is ignored.

    Attributes:
        only: Texts of which the answer must be one; empty: any will do.
        never: Texts that it must not be.
    """

    only: frozenset[str]
    never: frozenset[str]

    def allows(self, answer: str) -> bool:
        """Whether an answer passes."""
        text = answer.strip().casefold()
        return text not in self.never and (not self.only or text in self.only)


def demanded(requirement: str | None) -> Demand:
    """What a requirement quotes ("must be 'X' or 'Y'", "must not be 'X'"), for adapters that have no set of labels.

    Args:
        requirement: The requirement in words; None if there is none.

    Raises:
        CheckError: It quotes nothing, does not say plainly whether what it quotes passes, or contradicts itself.
    """
    said: dict[Side, set[str]] = {side: set() for side in Side}
    for mention in mentions(requirement or "", ()):
        said[mention.side].add(mention.text.casefold())
    only, never = frozenset(said[Side.ONLY]), frozenset(said[Side.NEVER])
    if said[Side.UNCLEAR] or not (only or never) or only & never:
        raise CheckError(
            f"the requirement {requirement!r} does not say plainly which answers pass, and the adapter answers with a "
            "text of its own; word it as must be 'X' or must not be 'X'"
        )
    return Demand(only, never)


def _told(
    labels: Sequence[str], pass_labels: Iterable[str] | None, fail_labels: Iterable[str] | None
) -> frozenset[str]:
    known, passes, fails = frozenset(labels), frozenset(pass_labels or ()), frozenset(fail_labels or ())
    if unknown := sorted((passes | fails) - known):
        raise CheckError(f"pass/fail labels {unknown} are not labels of the adapter; its labels are {sorted(known)}")
    if both := sorted(passes & fails):
        raise CheckError(f"labels {both} are told both to pass and to fail; name each on one side only")
    if pass_labels is None:
        return known - fails
    if fail_labels is not None and (neither := sorted(known - passes - fails)):
        raise CheckError(f"labels {neither} neither pass nor fail; name them too, or give only one of the two lists")
    return passes


def _quoted(labels: Sequence[str], requirement: str) -> frozenset[str]:
    said: dict[Side, set[str]] = {Side.ONLY: set(), Side.NEVER: set()}
    for mention, meant in _mentioned(labels, requirement):
        if mention.side is not Side.UNCLEAR and not meant:
            raise CheckError(
                f"the requirement {requirement!r} quotes {mention.text!r}, which is not a label; "
                f"quote one of the adapter's labels, which are {sorted(labels)}"
            )
        if mention.side is Side.UNCLEAR and meant:
            raise CheckError(
                f"the requirement {requirement!r} does not say plainly whether {mention.text!r} passes; {_REMEDY}"
            )
        if meant:
            said[mention.side] |= meant
    only, never = said[Side.ONLY], said[Side.NEVER]
    if not only and not never:
        raise CheckError(
            f"the requirement {requirement!r} does not say which of the labels {sorted(labels)} pass; {_REMEDY}"
        )
    if both := sorted(only & never):
        raise CheckError(f"the requirement {requirement!r} both asks for and forbids {both}; {_REMEDY}")
    return frozenset((only or set(labels)) - never)


def _mentioned(labels: Sequence[str], requirement: str) -> Iterator[tuple[Mention, set[str]]]:
    """Quoted texts and the labels spelt like each: exactly if there is such a label, else whatever its case."""
    for mention in mentions(requirement, labels):
        text = mention.text
        yield mention, {text} & set(labels) or {label for label in labels if label.casefold() == text.casefold()}
