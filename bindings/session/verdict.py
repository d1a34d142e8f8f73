"""Which labels pass a check: told by the trainer, known words, or quoted by the requirement."""

from collections.abc import Iterable, Sequence

from alorakit.bindings.session.wording import Side, mentions
from alorakit.engine.errors import CheckError

PASS_WORDS = frozenset({"yes", "true", "pass"})
FAIL_WORDS = frozenset({"no", "false", "fail"})

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
    these; the labels that the requirement quotes ("must not be 'X'": X fails; "must be 'X'": only X passes).

    Args:
        labels: Every label of the adapter.
        requirement: The requirement in words; None if there is none.
        pass_labels: Labels that pass, if told; with ``fail_labels`` None every other label fails.
        fail_labels: Labels that fail, if told; with ``pass_labels`` None every other label passes.

    Returns:
        The labels that pass, a subset of ``labels``.

    Raises:
        CheckError: The told labels are unknown or contradict each other, or nothing decides.
    """
    if pass_labels is not None or fail_labels is not None:
        return _told(labels, pass_labels, fail_labels)
    if labels and all(label.casefold() in PASS_WORDS | FAIL_WORDS for label in labels):
        return frozenset(label for label in labels if label.casefold() in PASS_WORDS)
    return _quoted(labels, requirement or "")


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
    for mention in mentions(requirement, labels):
        meant = _meant(labels, mention.text)
        if mention.side is not Side.UNCLEAR and not meant:
            raise CheckError(
                f"the requirement {requirement!r} quotes {mention.text!r}, which is not a label; "
                f"the adapter's labels are {sorted(labels)}"
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


def _meant(labels: Sequence[str], text: str) -> set[str]:
    """The labels spelt like ``text``: exactly if there is such a label, else whatever its case."""
    return {text} & set(labels) or {label for label in labels if label.casefold() == text.casefold()}
