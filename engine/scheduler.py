"""Who runs next: continuous batching under a token budget, decode first, blocks shared through the tree."""

from collections import deque
from dataclasses import dataclass, field, replace
from time import perf_counter

from alorakit.engine.adapter_slots import AdapterSlots
from alorakit.engine.block_tree import BlockTree, Match, Node, extra_at
from alorakit.engine.config import EngineConfig
from alorakit.engine.drafts import AnswerHistory
from alorakit.engine.sequence import Sequence, Status


@dataclass(frozen=True)
class Entry:
    """Rows of one sequence in a step: tokens ``[start, start + num_tokens)``, then branches or a draft.

    Attributes:
        sequence: Whose rows they are.
        start: Position of the first token.
        num_tokens: Tokens of the sequence.
        completes: Whether its last token is among them, so that a next token (or the scores) can be had.
        branches: Whether the candidates' rows follow.
        draft: Tokens guessed to come next; their rows follow, and those that turn out right count.
    """

    sequence: Sequence
    start: int
    num_tokens: int
    completes: bool
    branches: bool = False
    draft: tuple[int, ...] = ()

    @property
    def num_rows(self) -> int:
        """Rows that enter the model."""
        return self.num_tokens + len(self.draft) + (self.sequence.num_branch_rows if self.branches else 0)

    @property
    def num_prompt_logprobs(self) -> int:
        """Rows, from the first one on, that predict a prompt token whose log-probability is asked for."""
        if self.sequence.sampling.prompt_logprobs is None:
            return 0
        return max(0, min(self.start + self.num_tokens, self.sequence.num_prompt - 1) - self.start)

    @property
    def logits_rows(self) -> range:
        """Rows whose logits are wanted: those that predict prompt tokens, then those that choose or score."""
        begin = self.num_tokens - 1 if self.completes else self.num_rows
        return range(0 if self.num_prompt_logprobs else begin, self.num_rows if self.completes else self.num_tokens)


@dataclass(frozen=True)
class BlockCopy:
    """Copy the first ``rows`` slots of block ``source`` to ``sequence``'s block ``dest``, before the forward pass."""

    source: int
    dest: int
    rows: int
    sequence: Sequence


@dataclass
class Schedule:
    """What one step does."""

    entries: list[Entry] = field(default_factory=list)
    copies: list[BlockCopy] = field(default_factory=list)


class Scheduler:
    """Owns the queues and, through the tree, every block."""

    def __init__(self, config: EngineConfig, tree: BlockTree, slots: AdapterSlots) -> None:
        """Empty queues over ``tree`` and ``slots``."""
        self.tree, self.slots = tree, slots
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.num_preemptions = 0
        self.answers = AnswerHistory(config.max_draft_tokens)
        self._max_seqs = config.max_num_seqs
        self._max_tokens = config.max_num_batched_tokens

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence that is known to fit."""
        self.waiting.append(sequence)

    def schedule(self) -> Schedule:
        """Choose the next step's rows and get their blocks; preempts the newest sequences if blocks run out."""
        plan = Schedule()
        budget = self._max_tokens
        decoding = [s for s in self.running if len(s.tokens) - s.num_computed == 1 and s.branches is None]
        prefilling = [s for s in self.running if s not in decoding]
        for sequence in decoding + prefilling:
            if sequence.status is Status.RUNNING and (entry := self._entry(sequence, budget)):
                if not self._grow(sequence, entry):
                    continue
                entry = self._with_draft(entry, budget)
                plan.entries.append(entry)
                budget -= entry.num_rows
        plan.entries = [e for e in plan.entries if e.sequence.status is Status.RUNNING]
        self._admit(plan, budget)
        return plan

    def roll_back(self, plan: Schedule) -> None:
        """The step failed: its copies may not have been made, so their rows count as not computed."""
        for copy in plan.copies:
            self._forget_private_rows(copy.sequence)

    def finish(self, plan: Schedule) -> None:
        """After the forward pass: full blocks go to the tree for others to share, ended sequences let theirs go."""
        for entry in plan.entries:
            sequence = entry.sequence
            if sequence.error is not None:
                self._forget_private_rows(sequence)
                self.end(sequence, "error")
                continue
            # The newest token has no KV yet, whether it followed one row or several right guesses.
            decoded = entry.completes and not entry.branches
            sequence.num_computed = len(sequence.tokens) - 1 if decoded else entry.start + entry.num_tokens
            self._share_full_blocks(sequence)
            if sequence.finish_reason is not None:
                self.end(sequence, sequence.finish_reason)

    def end(self, sequence: Sequence, reason: str) -> None:
        """A sequence is done (or given up): keep its KV in the tree, free the rest."""
        sequence.status, sequence.finish_reason, sequence.finished = Status.FINISHED, reason, perf_counter()
        if reason in ("stop", "length") and sequence.adapter is not None and sequence.branches is None:
            self.answers.add(sequence.adapter.info.digest, sequence.completion)
        if sequence in self.running:
            self.running.remove(sequence)
            self._unpin(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)
        self._release(sequence)

    def check_integrity(self) -> None:
        """Every block is free, cached, or private to exactly one running sequence, and so with adapters' pins."""
        self.slots.check_integrity([s.adapter for s in self.running if s.adapter and s.extra])
        self.tree.check_integrity([b for s in self.running for b in s.blocks[len(s.nodes) :]])

    def _entry(self, sequence: Sequence, budget: int) -> Entry | None:
        left = len(sequence.tokens) - sequence.num_computed
        branch_rows = sequence.num_branch_rows
        if left + branch_rows <= budget:
            return Entry(sequence, sequence.num_computed, left, completes=True, branches=sequence.branches is not None)
        # The branches follow the last token in one pass: never compute that token without them.
        num = min(budget, left - 1) if branch_rows else min(budget, left)
        return Entry(sequence, sequence.num_computed, num, completes=False) if num > 0 else None

    def _grow(self, sequence: Sequence, entry: Entry) -> bool:
        """Get blocks for the entry's rows; False if the sequence itself had to be preempted."""
        missing = self._num_blocks(entry.start + entry.num_rows) - len(sequence.blocks)
        while missing > 0:
            taken = self.tree.allocate(missing, sequence.blocks[-1] if sequence.blocks else None)
            if taken is not None:
                sequence.blocks += taken
                return True
            victim = self.running[-1]
            self._preempt(victim)
            if victim is sequence:
                return False
        return True

    def _with_draft(self, entry: Entry, budget: int) -> Entry:
        """Add guesses of what comes next, as far as budget and blocks allow; never at another sequence's cost."""
        sequence = entry.sequence
        if not entry.completes or entry.branches:
            return entry
        draft = self.answers.propose(
            sequence, min(budget - entry.num_rows, sequence.max_len - len(sequence.tokens) - 1)
        )
        end = entry.start + entry.num_rows + len(draft)
        if (missing := self._num_blocks(end) - len(sequence.blocks)) > 0:
            taken = self.tree.allocate(missing, sequence.blocks[-1])
            if taken is None:
                return entry
            sequence.blocks += taken
        return replace(entry, draft=draft) if draft else entry

    def _preempt(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self._unpin(sequence)
        self._release(sequence)
        sequence.num_computed = 0
        sequence.status = Status.WAITING
        self.waiting.appendleft(sequence)
        self.num_preemptions += 1

    def _admit(self, plan: Schedule, budget: int) -> None:
        passed: list[Sequence] = []
        short_of_slots = False
        while self.waiting and budget > 0 and len(self.running) < self._max_seqs:
            sequence = self.waiting.popleft()
            match = self._match(sequence)
            # Behind one that waits for a slot nobody pins another, so that its turn comes.
            if self._should_wait(sequence, match.num_tokens) or (short_of_slots and sequence.extra is not None):
                passed.append(sequence)
                continue
            if not self._pin(sequence):
                short_of_slots = True
                passed.append(sequence)
                continue
            held = [*match.nodes, *([match.partial] if match.partial else [])]
            self.tree.hold(held)
            shared = [n.block for n in match.nodes]
            total = self._num_blocks(len(sequence.tokens) + sequence.num_branch_rows)
            after = shared[-1] if shared else None
            private = self.tree.allocate(total - len(shared), after)
            if match.partial:
                self.tree.release([match.partial])
            if private is None and match.partial:  # the copy's source may be the very block that is lacking
                match = Match(match.nodes, None, 0)
                private = self.tree.allocate(total - len(shared), after)
            if private is None:
                self.tree.release(match.nodes)
                self._unpin(sequence)
                self.waiting.appendleft(sequence)
                break
            if match.partial:
                plan.copies.append(BlockCopy(match.partial.block, private[0], match.partial_rows, sequence))
            sequence.nodes, sequence.blocks = list(match.nodes), shared + private
            sequence.num_computed = match.num_tokens
            if sequence.num_cached is None:
                sequence.num_cached, sequence.admitted = match.num_tokens, perf_counter()
            sequence.status = Status.RUNNING
            self.running.append(sequence)
            if entry := self._entry(sequence, budget):
                entry = self._with_draft(entry, budget)
                plan.entries.append(entry)
                budget -= entry.num_rows
        self.waiting.extendleft(reversed(passed))

    def _pin(self, sequence: Sequence) -> bool:
        """Hold the sequence's adapter on the device; False if there is no slot for it. A base request needs none."""
        return sequence.adapter is None or sequence.activation is None or self.slots.acquire(sequence.adapter)

    def _unpin(self, sequence: Sequence) -> None:
        if sequence.adapter is not None and sequence.activation is not None:
            self.slots.release(sequence.adapter)

    def _match(self, sequence: Sequence) -> Match:
        if sequence.sampling.prompt_logprobs is not None:  # every prompt row must enter the model
            sequence.prompt_logprobs.clear()
            return Match((), None, 0)
        return self.tree.match(sequence.tokens, sequence.extra, len(sequence.tokens) - 1)

    def _should_wait(self, sequence: Sequence, matched: int) -> bool:
        """Whether a running prefill is about to compute more whole blocks of this prompt than are cached now."""
        size = self.tree.block_size
        wanted = (matched // size + 1) * size  # end of the first whole block that is not cached
        if wanted >= len(sequence.tokens) or sequence.sampling.prompt_logprobs is not None:
            return False
        for other in self.running:
            if not other.num_computed < wanted <= other.num_prompt:
                continue
            points = [e.activation for e in (sequence.extra, other.extra) if e is not None]
            usable = sequence.extra == other.extra or wanted <= min(points)
            if usable and sequence.tokens[:wanted] == other.tokens[:wanted]:
                return True
        return False

    def _share_full_blocks(self, sequence: Sequence) -> None:
        size = self.tree.block_size
        while (len(sequence.nodes) + 1) * size <= sequence.num_computed:
            node = self._insert(sequence, size)
            assert node is not None
            self.tree.hold([node])
            index = len(sequence.nodes)
            if node.block != sequence.blocks[index]:  # somebody else computed the same block meanwhile
                self.tree.free([sequence.blocks[index]])
                sequence.blocks[index] = node.block
            sequence.nodes.append(node)

    def _forget_private_rows(self, sequence: Sequence) -> None:
        sequence.num_computed = min(sequence.num_computed, len(sequence.nodes) * self.tree.block_size)

    def _insert(self, sequence: Sequence, rows: int) -> Node | None:
        start = len(sequence.nodes) * self.tree.block_size
        parent = sequence.nodes[-1] if sequence.nodes else self.tree.root
        tokens = tuple(sequence.tokens[start : start + rows])
        block = sequence.blocks[len(sequence.nodes)]
        return self.tree.insert(parent, tokens, extra_at(sequence.extra, start + rows), block)

    def _release(self, sequence: Sequence) -> None:
        private = sequence.blocks[len(sequence.nodes) :]
        tail = sequence.num_computed - len(sequence.nodes) * self.tree.block_size
        if tail > 0:
            node = self._insert(sequence, tail)
            if node is not None and node.block == private[0]:
                private = private[1:]
        self.tree.free(private)
        self.tree.release(sequence.nodes)
        sequence.nodes, sequence.blocks = [], []

    def _num_blocks(self, num_tokens: int) -> int:
        return -(-num_tokens // self.tree.block_size)
