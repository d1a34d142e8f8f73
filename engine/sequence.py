"""One running request: its tokens, its blocks, what it has decoded."""

import time
from dataclasses import dataclass, field
from enum import Enum, auto

from alorakit.engine.adapters import Adapter
from alorakit.engine.block_tree import Extra, Node
from alorakit.engine.branches import Branches
from alorakit.engine.errors import AlorakitError
from alorakit.engine.output import OutputText
from alorakit.engine.penalties import TokenCounts
from alorakit.engine.request import RequestOutput, SamplingParams, Timing, Usage
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
        num_cached: Tokens found in the cache when first admitted.
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

    @property
    def extra(self) -> Extra | None:
        """What tags this sequence's blocks from the activation point on."""
        if self.adapter is None or self.activation is None:
            return None
        return Extra(self.adapter.info.digest, self.activation)

    @property
    def completion(self) -> list[int]:
        """Tokens decoded so far."""
        return self.tokens[self.num_prompt :]

    @property
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
        )
