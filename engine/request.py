"""What goes in and what comes out: sampling parameters, outputs, scores."""

from dataclasses import dataclass, field
from typing import Any

from alorakit.engine.errors import AlorakitError, RequestError

MAX_STOPS = 64


@dataclass(frozen=True)
class SamplingParams:
    """How to decode one request; the names the ecosystem knows.

    Attributes:
        max_tokens: Most tokens to decode.
        min_tokens: No end-of-sequence and no stop token before this many tokens.
        temperature: 0 is greedy; else logits are divided by it.
        top_p: Keep the smallest set of tokens whose probability reaches this.
        top_k: Keep the most likely k tokens; 0 keeps all.
        min_p: Keep tokens with at least this share of the most likely token's probability.
        seed: Makes the samples reproducible, whatever else is in the batch.
        n: Number of outputs for the prompt.
        stop: Strings that end the text; they are not part of it.
        stop_token_ids: Tokens that end decoding, beside the model's end-of-sequence tokens.
        ignore_eos: Decode on through end-of-sequence tokens.
        logprobs: Report the log-probabilities of the chosen token and of this many top tokens.
        prompt_logprobs: The same for every prompt token; such a prompt is computed whole, without the prefix cache.
        presence_penalty: Subtracted from the logit of every token decoded so far.
        frequency_penalty: Subtracted once for every time the token was decoded.
        repetition_penalty: Divides positive (multiplies negative) logits of tokens seen in prompt or output
            (Keskar et al. 2019).

    Raises:
        RequestError: A value is out of range.
    """

    max_tokens: int = 16
    min_tokens: int = 0
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    n: int = 1
    stop: str | tuple[str, ...] | list[str] | None = ()
    stop_token_ids: tuple[int, ...] | list[int] | None = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        """Check every value, and turn lists into tuples."""
        stop = _as_tuple("stop", (self.stop,) if isinstance(self.stop, str) else self.stop)
        if len(stop) > MAX_STOPS or any(not isinstance(s, str) or not s for s in stop):
            raise RequestError(f"stop={stop!r} must be at most {MAX_STOPS} non-empty strings")
        ids = _as_tuple("stop_token_ids", self.stop_token_ids)
        if any(not isinstance(i, int) or isinstance(i, bool) or i < 0 for i in ids):
            raise RequestError(f"stop_token_ids={ids!r} must be token ids, integers of at least 0")
        object.__setattr__(self, "stop", stop)
        object.__setattr__(self, "stop_token_ids", ids)
        for name in ("max_tokens", "min_tokens", "top_k", "n", "logprobs", "prompt_logprobs", "seed"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
                raise RequestError(f"{name}={value!r} must be an integer")
        _within("max_tokens", self.max_tokens, 1, None)
        _within("min_tokens", self.min_tokens, 0, self.max_tokens)
        _within("temperature", self.temperature, 0.0, 1000.0)
        if 0.0 < self.temperature < 1e-6:
            raise RequestError(
                f"temperature={self.temperature!r} is below 1e-06; use temperature=0.0 for greedy decoding"
            )
        _within("top_p", self.top_p, 0.0, 1.0)
        _within("top_k", self.top_k, 0, None)
        _within("min_p", self.min_p, 0.0, 1.0)
        _within("n", self.n, 1, 256)
        _within("presence_penalty", self.presence_penalty, -10.0, 10.0)
        _within("frequency_penalty", self.frequency_penalty, -10.0, 10.0)
        _within("repetition_penalty", self.repetition_penalty, 0.01, 100.0)
        if self.top_p == 0.0:
            raise RequestError("top_p=0.0 keeps no token; use temperature=0.0 for greedy decoding")
        for name in ("logprobs", "prompt_logprobs"):
            if getattr(self, name) is not None:
                _within(name, getattr(self, name), 0, 100)

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings, always a tuple."""
        return tuple(self.stop or ())

    @property
    def stop_ids(self) -> frozenset[int]:
        """The stop tokens."""
        return frozenset(self.stop_token_ids or ())


def _as_tuple(name: str, value: object) -> tuple[Any, ...]:
    if value is None:
        return ()
    if isinstance(value, list | tuple | set | frozenset):
        return tuple(value)
    raise RequestError(f"{name}={value!r} must be a list")


def _within(name: str, value: float, low: float, high: float | None) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not value >= low or (high is not None and value > high):
        limit = f"at least {low}" if high is None else f"from {low} to {high}"
        raise RequestError(f"{name}={value!r} must be a number {limit}")


@dataclass(frozen=True)
class Usage:
    """Token counts of one request.

    Attributes:
        prompt_tokens: Tokens of the prompt.
        cached_tokens: Those of them whose KV was not computed for this request.
        completion_tokens: Tokens decoded.
    """

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Timing:
    """Seconds: waiting for a place, until the first token (from arrival), until the end (from arrival)."""

    queue_s: float
    ttft_s: float
    total_s: float


@dataclass(frozen=True)
class RequestOutput:
    """The answer to one request.

    Attributes:
        text: Decoded text, without a stop token or stop string.
        token_ids: Decoded ids, a stop token included; after a stop string they end at the last token wholly
            before it.
        finish_reason: ``"stop"``, ``"length"``, ``"abort"`` (by :meth:`Engine.abort`, or the engine was closed
            meanwhile) or ``"error"`` (only from :meth:`Engine.step`; other calls raise the error).
        logprobs: For each token, a dict of token id to log-probability; None unless asked for.
        prompt_logprobs: The same for each prompt token, None for the first; None unless asked for.
        adapter: Name of the adapter asked for, or None for the base model.
        activation: Index of the first adapted token; None: no token was adapted.
        usage: Token counts.
        timing: Seconds.
        prompt_index: Which prompt of the call.
        sample_index: Which of the prompt's ``n`` samples.
        request_id: What :meth:`Engine.add_request` returned.
        error: Why it failed, or None.
    """

    text: str
    token_ids: list[int]
    finish_reason: str
    logprobs: list[dict[int, float]] | None
    prompt_logprobs: list[dict[int, float] | None] | None
    adapter: str | None
    activation: int | None
    usage: Usage
    timing: Timing
    prompt_index: int = 0
    sample_index: int = 0
    request_id: int = 0
    error: AlorakitError | None = None


@dataclass(frozen=True)
class StreamChunk:
    """A piece of a streamed answer; ``finish_reason`` is set on the last one."""

    text: str
    token_ids: list[int]
    finish_reason: str | None = None
    output: RequestOutput | None = field(default=None, repr=False)


@dataclass(frozen=True)
class CandidateScore:
    """How likely one candidate is as the continuation of a prompt.

    Attributes:
        text: The candidate.
        token_ids: Its tokens, closed by end-of-sequence unless ``end=False``.
        logprob: Sum of the tokens' log-probabilities (natural logarithm).
        probability: Share of this candidate among all of them.
    """

    text: str
    token_ids: list[int]
    logprob: float
    probability: float


class ScoreResult(list[CandidateScore]):
    """The candidates' scores, in the candidates' order.

    Attributes:
        usage: Token counts of the pass (``completion_tokens`` is 0: nothing is decoded).
        timing: Seconds.
        activation: Index of the first adapted token, or None.
    """

    def __init__(self, scores: list[CandidateScore], usage: Usage, timing: Timing, activation: int | None) -> None:
        """Scores, and what computing them took."""
        super().__init__(scores)
        self.usage, self.timing, self.activation = usage, timing, activation

    @property
    def best(self) -> CandidateScore:
        """The most likely candidate."""
        return max(self, key=lambda score: score.logprob)
