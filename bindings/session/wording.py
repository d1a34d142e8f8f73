"""Read "must be 'X'" and "must not be 'X'" out of a requirement.

Deliberately timid: a verdict that is silently upside down is worse than an error. Whatever is not surely understood
(conditions, double negations, a label without a verb before it) is reported as such, never guessed.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto


class Side(Enum):
    """What a requirement says about a label that it quotes."""

    ONLY = auto()
    NEVER = auto()
    UNCLEAR = auto()


@dataclass(frozen=True)
class Mention:
    """One quoted text of a requirement.

    Attributes:
        text: The text between the quotes.
        side: What is said about it.
    """

    text: str
    side: Side


# Straight quotes, backticks, and the typographic ones of several languages.
_OPEN = "'\"`\u2018\u2019\u201c\u201d\u201e\u00ab"
_CLOSE = "'\"`\u2018\u2019\u201c\u201d\u00bb"
# The words between "must be" and the label that do not change its sense.
_FILLER = (
    r"(?:\s+(?:equal|to|one|any|of|either|exactly|the|an?|labell?ed|classified|reported|given|set|as|labels?|class(?:es)?"
    r"|category|categories|values?|words?|following))*\s*:?\s*$"
)
_NEVER = re.compile(
    r"(?:\bneither|\bnor|\b(?:anything|something)\s+(?:but|other\s+than)|\bother\s+than|\bdifferent\s+from"
    # One word of any kind after the negation ("not be", "not contain"), unless that word weakens it.
    r"|(?:\bnot|n['\u2019]t|\bnever|\bcannot)(?:\s+ever)?(?:\s+(?!(?:only|just|merely|always|necessarily)\b)[a-z]+)?)"
    + _FILLER,
    re.IGNORECASE,
)
_ONLY = re.compile(
    r"(?:\b(?:must|should|shall|will|has\s+to|have\s+to|needs?\s+to|ought\s+to)\s+(?:always\s+|only\s+)?(?:be|equal|read)"
    r"|\b(?:can|may)\s+only\s+be|\b(?:is|are|was|were))(?:\s+(?:always|only))?" + _FILLER,
    re.IGNORECASE,
)
_LIST = re.compile(r"\s*[,;/]?\s*(?:\b(?:or|and)\b)?\s*(?:\b(?:an?|the)\b)?\s*", re.IGNORECASE)
_NEGATED = re.compile(r"(?:\bnot|n['\u2019]t|\bnever|\bcannot|\bno)(?:\s+\w+){0,3}\s*$", re.IGNORECASE)
_CONDITION = re.compile(r"\b(?:if|when|whenever|whether|false|wrong|reject|avoid)\b", re.IGNORECASE)
_EXCEPTION = re.compile(r"\b(?:unless|except)\b", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?;\n]\s")


def mentions(requirement: str, labels: Sequence[str]) -> Iterator[Mention]:
    """Every quoted text of a requirement, in order, and what is said about it.

    Args:
        requirement: The requirement in words.
        labels: The adapter's labels, which may hold spaces and quotes themselves.

    Yields:
        Mentions; ``text`` is one of ``labels`` wherever the quoted text is one.
    """
    known = "|".join(re.escape(label) for label in sorted(labels, key=len, reverse=True))
    quoted = re.compile(
        rf"(?<!\w)[{_OPEN}]\s*(?:(?P<label>{known})[.,;!?]?|(?P<other>[^{_OPEN}{_CLOSE}]+))\s*[{_CLOSE}](?!\w)",
        re.IGNORECASE,
    )
    end, side = 0, Side.UNCLEAR
    for match in quoted.finditer(requirement):
        side = _side(requirement, end, match.start(), side)
        yield Mention(match["label"] or match["other"].strip(), side)
        end = match.end()


def _side(requirement: str, end: int, start: int, previous: Side) -> Side:
    """What the words between the previous mention (ending at ``end``) and this one (at ``start``) say about it."""
    gap = requirement[end:start]
    if end and _LIST.fullmatch(gap):
        return previous
    before = _SENTENCE_END.split(requirement[:start])[-1]
    if _CONDITION.search(before) or _EXCEPTION.search(requirement):
        return Side.UNCLEAR
    for side, cue in ((Side.NEVER, _NEVER), (Side.ONLY, _ONLY)):
        if found := cue.search(gap):
            return Side.UNCLEAR if _NEGATED.search(gap[: found.start()]) else side
    return Side.UNCLEAR
