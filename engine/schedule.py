"""What one step does: whose rows enter the model, and which blocks are copied before."""

from dataclasses import dataclass, field

from alorakit.engine.sequence import Sequence


@dataclass(slots=True, eq=False)
class Entry:
    """Rows of one sequence in a step: tokens ``[start, start + num_tokens)``, then branches or a draft.

    Not changed once made, and not frozen: a step makes one for each of its sequences, and freezing takes twice as long.

    Attributes:
        sequence: Whose rows they are.
        start: Position of the first token.
        num_tokens: Tokens of the sequence.
        completes: Whether its last token is among them, so that a next token (or the scores) can be had.
        branches: Whether the candidates' rows follow.
        draft: Tokens guessed to come next; their rows follow, and those that turn out right count.
        num_rows: Rows that enter the model.
        num_prompt_logprobs: Rows, from the first one on, that predict a prompt token whose log-probability is asked
            for.
        logits_rows: Rows whose logits are wanted: those that predict prompt tokens, then those that choose or score.
    """

    sequence: Sequence
    start: int
    num_tokens: int
    completes: bool
    branches: bool = False
    draft: tuple[int, ...] = ()
    num_rows: int = field(init=False)
    num_prompt_logprobs: int = field(init=False, default=0)
    logits_rows: range = field(init=False)

    def __post_init__(self) -> None:
        """Work out what every stage of the step asks for."""
        sequence, num_tokens = self.sequence, self.num_tokens
        self.num_rows = num_tokens + len(self.draft) + (sequence.num_branch_rows if self.branches else 0)
        begin = num_tokens - 1 if self.completes else self.num_rows
        if sequence.sampling.prompt_logprobs is not None:
            end = min(self.start + num_tokens, sequence.num_prompt - 1)
            self.num_prompt_logprobs = max(0, end - self.start)
            begin = 0 if self.num_prompt_logprobs else begin
        self.logits_rows = range(begin, self.num_rows if self.completes else num_tokens)


@dataclass(frozen=True)
class BlockCopy:
    """Copy the first ``rows`` slots of block ``source`` to ``sequence``'s block ``dest``, before the forward pass."""

    source: int
    dest: int
    rows: int
    sequence: Sequence


@dataclass
class Schedule:
    """What one step does.

    The copies are made in order: a block that a later copy overwrites was read by the earlier ones.

    Attributes:
        entries: Rows that enter the model.
        copies: Made before.
        failed: Sequences that ended with an error when they should have been let in.
        num_rows: Rows of all entries.
    """

    entries: list[Entry] = field(default_factory=list)
    copies: list[BlockCopy] = field(default_factory=list)
    failed: list[Sequence] = field(default_factory=list)
    num_rows: int = 0

    def add(self, entry: Entry) -> None:
        """Add an entry's rows."""
        self.entries.append(entry)
        self.num_rows += entry.num_rows

    def drop(self, sequence: Sequence) -> bool:
        """Take a sequence's rows out again; its copies stay, as others may read what they bring.

        Returns:
            Whether there is such a copy: until it is made, the sequence's private rows are not there.
        """
        self.num_rows -= sum(e.num_rows for e in self.entries if e.sequence is sequence)
        self.entries = [e for e in self.entries if e.sequence is not sequence]
        return any(copy.sequence is sequence for copy in self.copies)
