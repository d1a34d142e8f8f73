"""One running request: its tokens, its blocks, what it has decoded."""

import time
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import cached_property

from alorakit.engine.adapters import Adapter
from alorakit.engine.block_tree import Extra, Node
from alorakit.engine.branches import Branches
from alorakit.engine.errors import AlorakitError
from alorakit.engine.output import OutputText
from alorakit.engine.penalties import TokenCounts
from alorakit.engine.request import RequestOutput, SamplingParams, StreamChunk, Timing, Usage
from alorakit.engine.structured import Matcher


class Status(Enum):
    """Where a sequence is in its life."""

    WAITING = auto()
    RUNNING = auto()
    FINISHED = auto()


@dataclass(eq=False)
class Sequence:
    """A request inside the engine.

    Attributes:
        tokens: Prompt and everything decoded so far.
        num_prompt: Length of the prompt.
        max_len: Tokens at which decoding ends.
        sampling: How to decode.
        adapter: The adapter's weights as they were at admission, or None for the base model.
        activation: Index of the first adapted token; None: no row is adapted.
        branches: Candidates to score; such a sequence decodes nothing.
        nodes: Cached blocks it holds, from the first block on.
        blocks: Its block table; ``nodes`` own the first of them, the rest are private.
        num_computed: Tokens whose KV is in the blocks.
        num_cached: Tokens whose KV was there when first admitted.
        request_id: The request it belongs to.
        priority: Lower goes first.
        order: Its place among all sequences, fixed on arrival.
        leader: A running sequence that computes KV this one needs, and the number of its rows to wait for.
        seed: What its random draws depend on, beside the indices of sample and token.
        matcher: Where it is in its grammar, or None if it may say anything; no drafts then.
        counts: How often each token was decoded; made when penalties first need it.
    """

    tokens: list[int]
    num_prompt: int
    max_len: int
    sampling: SamplingParams
    output: OutputText
    adapter: Adapter | None = None
    adapter_name: str | None = None
    activation: int | None = None
    branches: Branches | None = None
    prompt_index: int = 0
    sample_index: int = 0
    status: Status = Status.WAITING
    nodes: list[Node] = field(default_factory=list)
    blocks: list[int] = field(default_factory=list)
    num_computed: int = 0
    request_id: int = 0
    priority: int = 0
    order: tuple[int, int] = (0, 0)
    leader: "tuple[Sequence, int] | None" = None
    num_cached: int | None = None
    finish_reason: str | None = None
    error: AlorakitError | None = None
    token_logprobs: list[dict[int, float]] = field(default_factory=list)
    prompt_logprobs: list[dict[int, float]] = field(default_factory=list)
    branch_logprobs: list[float] | None = None
    seed: int = 0
    matcher: Matcher | None = None
    counts: TokenCounts | None = None
    arrived: float = field(default_factory=time.perf_counter)
    admitted: float | None = None
    first_token: float | None = None
    finished: float | None = None

    @cached_property
    def extra(self) -> Extra | None:
        """What tags this sequence's blocks from the activation point on."""
        if self.adapter is None or self.activation is None:
            return None
        return Extra(self.adapter.info.digest, self.activation)

    @cached_property
    def active_adapter(self) -> Adapter | None:
        """The adapter if any row is adapted."""
        return None if self.activation is None else self.adapter

    @cached_property
    def writer(self) -> str | None:
        """Digest of the adapter whose request computes this sequence's KV (its base part too); None for the base."""
        return None if self.adapter is None else self.adapter.info.digest

    @property
    def is_decoding(self) -> bool:
        """Whether one more row gives its next token."""
        return len(self.tokens) - self.num_computed == 1 and self.branches is None

    @property
    def waits_for_leader(self) -> bool:
        """Whether a running sequence is still computing what this one waits for."""
        if self.leader is None:
            return False
        other, rows = self.leader
        return other.status is Status.RUNNING and other.num_computed < rows

    @property
    def num_rows(self) -> int:
        """Rows of all its tokens and of the candidates' branches."""
        return len(self.tokens) + self.num_branch_rows

    @property
    def completion(self) -> list[int]:
        """Tokens decoded so far."""
        return self.tokens[self.num_prompt :]

    @cached_property
    def num_branch_rows(self) -> int:
        """Rows of the candidates' branches."""
        return 0 if self.branches is None else self.branches.num_rows

    @property
    def usage(self) -> Usage:
        """Token counts so far."""
        return Usage(self.num_prompt, self.num_cached or 0, len(self.output.token_ids))

    @property
    def timing(self) -> Timing:
        """Seconds so far."""
        end = self.finished if self.finished is not None else time.perf_counter()
        admitted = self.admitted if self.admitted is not None else end
        first = self.first_token if self.first_token is not None else end
        return Timing(admitted - self.arrived, first - self.arrived, end - self.arrived)

    def append(self, token: int, eos_token_ids: frozenset[int]) -> None:
        """Add a decoded token, and set ``finish_reason`` if it ends the sequence."""
        self.tokens.append(token)
        params, output = self.sampling, self.output
        if token in params.stop_ids or (token in eos_token_ids and not params.ignore_eos):
            output.push_silent(token)
            output.finish()
            self.finish_reason = "stop"
        elif output.push(token):
            self.finish_reason = "stop"
        elif self.matcher is not None and self.matcher.is_complete(self.completion):
            output.finish()
            self.finish_reason = "stop"
        elif len(self.tokens) >= self.max_len:
            self.finish_reason = "stop" if output.finish() else "length"

    def next_chunk(self) -> StreamChunk | None:
        """What has become final since the last call; the last chunk carries the output. None if nothing has."""
        done = self.status is Status.FINISHED
        text, ids = self.output.stream(final=done)
        if done:
            return StreamChunk(text, ids, self.finish_reason, self.to_output())
        return StreamChunk(text, ids) if text or ids else None

    def to_output(self) -> RequestOutput:
        """The answer of a finished sequence."""
        assert self.finish_reason is not None
        ids = self.output.token_ids
        return RequestOutput(
            text=self.output.text,
            token_ids=ids,
            finish_reason=self.finish_reason,
            logprobs=None if self.sampling.logprobs is None else self.token_logprobs[: len(ids)],
            prompt_logprobs=None if self.sampling.prompt_logprobs is None else [None, *self.prompt_logprobs],
            adapter=self.adapter_name,
            activation=self.activation,
            usage=self.usage,
            timing=self.timing,
            prompt_index=self.prompt_index,
            sample_index=self.sample_index,
            request_id=self.request_id,
            error=self.error,
        )
