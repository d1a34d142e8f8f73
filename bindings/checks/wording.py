"""Read "must be 'X'" and "must not be 'X'" out of a requirement.

Deliberately timid: a verdict that is silently upside down is worse than an error. A sentence is understood as a whole
or not at all: a subject, "must be" or "must not be", the labels, and nothing behind them. Whatever is not surely
understood (conditions, doubts, double negations, a label without a verb before it) is reported as such, never guessed.
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
_MARK = "\0"  # stands for a quoted text, so that the words inside a label are never read as part of the sentence


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text, re.IGNORECASE)


# The words between "must be" and the label that do not change its sense.
_FILLER = (
    r"(?: (?:equal|to|one|any|of|either|exactly|the|an?|labell?ed|classified|reported|given|set|as|labels?|class(?:es)?"
    r"|category|categories|values?|words?|following))* ?[:(]? ?$"
)
_BE = (
    r"\b(?:(?:(?:must|should|shall|will|has to|have to|needs? to|ought to) (?:(?:always|only) )?(?:be|equal|read)"
    r"|(?:can|may) only be|is|are|was|were)(?: (?:always|only))?)"
)
_NEVER = _pattern(
    rf"(?:{_BE} (?:not|never|neither|(?:anything|something) (?:but|other than)|other than|different from)"
    r"|\b(?:(?:must|should|shall|will|can|do|does|is|are|was|were|wo)(?: not| never|n?['\u2019]t)|cannot|not|never)"
    r"(?: ever)?(?: (?:be|(?:say|read|equal|contain|mention|report|state|answer)s?))?)" + _FILLER
)
_ONLY = _pattern(_BE + _FILLER)
_LIST = _pattern(r" ?[,;/]? ?(?:(?:or|and|(?P<nor>nor))\b)? ?(?:an?\b|the\b)? ?")
# What may stand between a label and the next "must be"; "or" may not: it would join two demands, not two labels.
_JOIN = _pattern(r" ?[,;]? ?(?:(?:and|but) )?(?P<subject>(?:it |(?:the|its) (?:\w+ ){1,3})?)")
_END = _pattern(r"[ .!;,:)]*")
# Words before "must be" that may turn its sense, or make it what somebody says.
_TURNS = _pattern(
    r",|n['\u2019]t\b|\b(?:no|not|none|nobody|nothing|no-one|never|neither|nor|cannot|without|but|instead|unlike|hardly"
    r"|rarely|seldom|scarcely|barely|sometimes|often|maybe|perhaps|possibly|probably|some|few|most|least|half"
    r"|opposite|contrary|reverse|that|which|who|what|why|how|where|while|until|whether|because|I|you|we|they|someone"
    r"|somebody|people|anyone|anybody|must|should|shall|will|would|can|could|may|might|needs?|ought|is|are|was|were|be"
    r"|has|have|had|do|does|did|says?|said|claims?|thinks?|false|wrong|incorrect|untrue|invalid|den(?:y|ies)|fail(?:s|ed)?"
    r"|(?:doubt|disput|disagree|reject|refus|avoid|forbid|prohibit|ban|exclud|omit|lack)\w*)\b"
)
# Openings that are surely no part of the demand.
_ASIDE = _pattern(
    r"^(?:please )?(?:(?:make sure|ensure)(?: that)? )?"
    r"(?:the \w+ (?:must|should)(?: not)? be \w+,? and (?=(?:the|it)\b))?"
)
_CONDITION = _pattern(
    r"\b(?:if|when|whenever|unless|except|otherwise|provided|assuming|as long as|only (?:on|in|for|at|after|before))\b"
)
# A blank line ends a sentence too, but not after a colon.
_SENTENCE_END = re.compile(rf"(?<=[.!?])[ \n]|(?<=;)[ \n](?!{_MARK})|(?<![:\n])\n\n+")


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
    requirement = requirement.replace(_MARK, " ")
    texts = [match["label"] or (match["other"] or "").strip() for match in quoted.finditer(requirement)]
    lines = quoted.sub(_MARK, requirement).split("\n")
    words = "\n".join(" ".join(line.split()) for line in lines)
    conditional = _CONDITION.search(words) is not None
    sides = [side for sentence in _SENTENCE_END.split(words) for side in _sides(" ".join(sentence.split()))]
    for text, side in zip(texts, sides, strict=True):
        yield Mention(text, Side.UNCLEAR if conditional else side)


def _sides(sentence: str) -> list[Side]:
    """What a sentence says about each of its marks: all of them are clear, or none is."""
    *gaps, tail = sentence.split(_MARK)
    sides: list[Side] = []
    for gap in gaps:
        sides.append(_side(gap, sides[-1] if sides else None))
    clear = _END.fullmatch(tail) and Side.UNCLEAR not in sides
    return sides if clear else [Side.UNCLEAR] * len(gaps)


def _side(gap: str, previous: Side | None) -> Side:
    """What the words before a mark say about it; ``previous`` is the side of the mark before them, if any."""
    if previous and (listed := _LIST.fullmatch(gap)):
        return Side.UNCLEAR if listed["nor"] and previous is Side.ONLY else previous
    for side, cue in ((Side.NEVER, _NEVER), (Side.ONLY, _ONLY)):
        if found := cue.search(gap):
            lead = gap[: found.start()]
            if previous:
                joined = _JOIN.fullmatch(lead)
                return side if joined and not _TURNS.search(joined["subject"]) else Side.UNCLEAR
            return Side.UNCLEAR if _TURNS.search(_ASIDE.sub("", lead)) else side
    return Side.UNCLEAR
