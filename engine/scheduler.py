"""Who runs next: continuous batching under a token budget, decode first, priorities without starvation."""

from bisect import insort
from dataclasses import replace
from enum import Enum, auto
from itertools import count
from time import perf_counter

from alorakit.engine.adapter_slots import AdapterSlots
from alorakit.engine.block_manager import BlockManager
from alorakit.engine.block_tree import BlockTree
from alorakit.engine.config import EngineConfig
from alorakit.engine.counters import Counters
from alorakit.engine.drafts import AnswerHistory
from alorakit.engine.errors import as_step_error
from alorakit.engine.schedule import Entry, Schedule
from alorakit.engine.sequence import Sequence, Status
from alorakit.engine.sharing import find_leader, find_tail

# How many steps a request of the next priority may arrive later and still go first. Within a priority the order is
# that of arrival, and no stream of urgent requests keeps a patient one waiting for ever.
STEPS_PER_PRIORITY = 1000


class Outcome(Enum):
    """What came of trying to let a waiting sequence in."""

    ADMITTED = auto()
    WAITS = auto()  # for KV that a running sequence is computing
    NO_SLOT = auto()  # every adapter slot is pinned
    NO_ROOM = auto()  # too few blocks, or too many sequences
    FAILED = auto()  # it has ended with an error


class Scheduler:
    """Owns the queues. Requests have one order, fixed on arrival: who comes first in it gets blocks first.

    Attributes:
        waiting: Sequences without blocks, in that order.
        running: Sequences with blocks, in that order.
        slots: Which adapters' weights are on the device.
        plan: The step that is being made or run.
    """

    def __init__(self, config: EngineConfig, tree: BlockTree, slots: AdapterSlots, counters: Counters) -> None:
        """Empty queues over ``tree`` and ``slots``."""
        self.blocks = BlockManager(tree)
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.plan = Schedule()
        self.answers = AnswerHistory(config.max_draft_tokens)
        self.slots, self._counters = slots, counters
        self._max_seqs = config.max_num_seqs
        self._max_tokens = config.on("cpu").max_num_batched_tokens or 0
        self._least_shared = config.block_size // 8
        self._arrivals = count()
        self._late: Sequence | None = None  # found no rows left in the last step

    @property
    def has_work(self) -> bool:
        """Whether any sequence runs or waits."""
        return bool(self.running or self.waiting)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence that is known to fit."""
        turn = self._counters.steps + STEPS_PER_PRIORITY * sequence.priority
        sequence.order = (turn, next(self._arrivals))
        insort(self.waiting, sequence, key=_order)

    def schedule(self) -> Schedule:
        """Choose the next step's rows and get their blocks; preempts the last in order if blocks run out."""
        self.plan = plan = Schedule()
        order = sorted(self.running, key=_is_prefilling)
        late, self._late = self._late, None
        if late is not None and late.status is Status.RUNNING:
            order = [late, *(s for s in order if s is not late)]
        for sequence in order:
            if sequence.status is not Status.RUNNING:
                continue
            entry = self._entry(sequence)
            if entry is None:  # it goes first in the next step; what is left now is for nobody after it
                self._late = sequence
                break
            if self._grow(sequence, entry.start + entry.num_rows):
                plan.add(self._with_draft(entry))
        self._admit()
        if self.waiting and not (self.running or plan.failed):
            raise RuntimeError(f"{len(self.waiting)} sequences wait and none can be let in")
        return plan

    def finish(self, plan: Schedule) -> list[Sequence]:
        """After the forward pass: full blocks go to the tree for others to share, ended sequences let theirs go.

        Returns:
            The sequences that ran.
        """
        for entry in plan.entries:
            sequence = entry.sequence
            if sequence.error is not None:
                self.blocks.forget_private_rows(sequence)
                self.end(sequence, "error")
                continue
            # The newest token has no KV yet, whether it followed one row or several right guesses.
            decoded = entry.completes and not entry.branches
            sequence.num_computed = len(sequence.tokens) - 1 if decoded else entry.start + entry.num_tokens
            self.blocks.share_full_blocks(sequence)
            if sequence.finish_reason is not None:
                self.end(sequence, sequence.finish_reason)
        return [*(entry.sequence for entry in plan.entries), *plan.failed]

    def roll_back(self) -> list[Sequence]:
        """The step failed: its copies may not have been made, so their rows count as not computed.

        Returns:
            The sequences whose rows were in it.
        """
        for copy in self.plan.copies:
            self.blocks.forget_private_rows(copy.sequence)
        return [*(entry.sequence for entry in self.plan.entries), *self.plan.failed]

    def end(self, sequence: Sequence, reason: str) -> None:
        """A sequence is done (or given up): keep its KV in the tree, free the rest."""
        was_running = sequence.status is Status.RUNNING
        sequence.status, sequence.finish_reason, sequence.finished = Status.FINISHED, reason, perf_counter()
        if reason in ("stop", "length") and sequence.adapter is not None and sequence.branches is None:
            self.answers.add(sequence.adapter.info.digest, sequence.completion)
        if was_running:
            self._leave(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)
        self._counters.count_end(sequence)

    def check_integrity(self) -> None:
        """Every block is free, cached, or private to exactly one running sequence; adapters are pinned as they run."""
        self.blocks.tree.check_integrity([b for s in self.running for b in s.blocks[len(s.nodes) :]])
        self.slots.check_integrity([s.active_adapter for s in self.running if s.active_adapter is not None])
        assert all(s.status is Status.RUNNING for s in self.running)
        assert all(s.status is Status.WAITING and not s.blocks for s in self.waiting)

    def _entry(self, sequence: Sequence) -> Entry | None:
        """As many rows of a sequence as the budget allows, or None."""
        budget = self._max_tokens - self.plan.num_rows
        left = len(sequence.tokens) - sequence.num_computed
        branch_rows = sequence.num_branch_rows
        if left + branch_rows <= budget:
            return Entry(sequence, sequence.num_computed, left, completes=True, branches=sequence.branches is not None)
        # The branches follow the last token in one pass: never compute that token without them.
        num = min(budget, left - 1) if branch_rows else min(budget, left)
        return Entry(sequence, sequence.num_computed, num, completes=False) if num > 0 else None

    def _grow(self, sequence: Sequence, num_rows: int) -> bool:
        """Get blocks for ``num_rows`` rows; False if the sequence itself had to be preempted."""
        while not self.blocks.grow(sequence, num_rows):
            victim = self.running[-1]
            self._preempt(victim)
            if victim is sequence:
                return False
        return True

    def _with_draft(self, entry: Entry) -> Entry:
        """Add guesses of what comes next, as far as budget and blocks allow; never at another sequence's cost."""
        sequence = entry.sequence
        if not entry.completes or entry.branches or not self.answers.knows(sequence):
            return entry
        room = self._max_tokens - self.plan.num_rows - entry.num_rows
        draft = self.answers.propose(sequence, min(room, sequence.max_len - len(sequence.tokens) - 1))
        if not draft or not self.blocks.grow(sequence, entry.start + entry.num_rows + len(draft)):
            return entry
        return replace(entry, draft=draft)

    def _preempt(self, sequence: Sequence) -> None:
        if self.plan.drop(sequence):
            self.blocks.forget_private_rows(sequence)
        self._leave(sequence)
        sequence.num_computed = 0
        sequence.status = Status.WAITING
        insort(self.waiting, sequence, key=_order)
        self._counters.preemptions += 1

    def _leave(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self.blocks.release(sequence)
        if sequence.active_adapter is not None:
            self.slots.release(sequence.active_adapter)

    def _admit(self) -> None:
        """Let waiting sequences in, in order. One that finds no room holds back those after it."""
        slot_lacking = False
        for sequence in list(self.waiting):
            if self.plan.num_rows >= self._max_tokens:
                return
            if self._late is not None and self._late.order < sequence.order:
                return
            if sequence.waits_for_leader or (slot_lacking and sequence.active_adapter is not None):
                continue
            outcome = self._admit_or_fail(sequence)
            while outcome is Outcome.NO_ROOM and self._preempt_for(sequence):
                outcome = self._admit_or_fail(sequence)
            if outcome is Outcome.NO_ROOM:
                return
            # Who waits for a slot must not be overtaken by those who would keep the slots pinned.
            slot_lacking = slot_lacking or outcome is Outcome.NO_SLOT
            if outcome is Outcome.ADMITTED:
                entry = self._entry(sequence)
                if entry is None:
                    self._late = self._late or sequence
                    return
                self.plan.add(self._with_draft(entry))

    def _admit_or_fail(self, sequence: Sequence) -> Outcome:
        """An exception (no memory for its adapter, say) ends this sequence, and not those that run."""
        try:
            return self._try_admit(sequence)
        except Exception as exc:
            sequence.error = as_step_error(exc)
            self.end(sequence, "error")
            self.plan.failed.append(sequence)
            return Outcome.FAILED

    def _try_admit(self, sequence: Sequence) -> Outcome:
        if len(self.running) >= self._max_seqs:
            return Outcome.NO_ROOM
        size = self.blocks.tree.block_size
        match = self.blocks.match(sequence)
        tail = None
        if sequence.sampling.prompt_logprobs is None:
            tail = find_tail(sequence, match, self.running, size)
            have = match.num_tokens if tail is None else len(match.nodes) * size + tail.rows
            sequence.leader = find_leader(sequence, have, self.running, self._least_shared)
            if sequence.leader is not None:
                return Outcome.WAITS
        if sequence.active_adapter is not None and not self.slots.acquire(sequence.active_adapter):
            return Outcome.NO_SLOT
        copies = None
        try:
            copies = self.blocks.admit(sequence, match, tail)
        finally:
            if copies is None and sequence.active_adapter is not None:
                self.slots.release(sequence.active_adapter)
        if copies is None:
            return Outcome.NO_ROOM
        self.plan.copies += copies
        self.waiting.remove(sequence)
        insort(self.running, sequence, key=_order)
        sequence.status = Status.RUNNING
        if sequence.admitted is None:
            sequence.admitted, sequence.num_cached = perf_counter(), sequence.num_computed
            self._counters.count_hits(sequence, match, tail)
        return Outcome.ADMITTED

    def _preempt_for(self, sequence: Sequence) -> bool:
        """Preempt the last of those that are less urgent than ``sequence`` and after it; False if there is none.

        After it in order: one that waited long enough to come first is not put back.
        """
        later = [s for s in self.running if s.priority > sequence.priority and s.order > sequence.order]
        if not later:
            return False
        self._preempt(later[-1])
        return True


def _is_prefilling(sequence: Sequence) -> bool:
    return not sequence.is_decoding


def _order(sequence: Sequence) -> tuple[int, int]:
    return sequence.order
