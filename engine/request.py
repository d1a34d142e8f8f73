"""What goes in and what comes out: sampling parameters, outputs, scores."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from alorakit.engine.errors import AlorakitError, RequestError, shown
from alorakit.engine.request_checks import as_bool, as_float, as_integer, as_structured, as_texts, as_tuple

MAX_STOPS = 64
MAX_STOP_CHARS = 1024
MAX_LOGPROBS = 100
_INTEGERS: dict[str, tuple[int, int | None]] = {
    "max_tokens": (1, None),
    "min_tokens": (0, None),
    "top_k": (0, None),
    "seed": (0, 2**64 - 1),
    "n": (1, 256),
    "logprobs": (0, MAX_LOGPROBS),
    "prompt_logprobs": (0, MAX_LOGPROBS),
}
_OPTIONAL = ("seed", "logprobs", "prompt_logprobs")
_FLOATS = {
    "temperature": (0.0, 1000.0),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "presence_penalty": (-10.0, 10.0),
    "frequency_penalty": (-10.0, 10.0),
    "repetition_penalty": (0.01, 100.0),
}


@dataclass(frozen=True)
class SamplingParams:
    """How to decode one request; the names the ecosystem knows, the meaning that vLLM and transformers give them.

    A token's logits go through, in this order: ``structured``, the penalties, ``min_tokens``, ``temperature``,
    ``top_k``, ``top_p``, ``min_p``. Log-probabilities are reported from the model's own logits, before all of these.

    Attributes:
        max_tokens: Most tokens to decode.
        min_tokens: No end-of-sequence and no stop token before this many tokens, and no stop string complete by then.
        temperature: 0 is greedy; else logits are divided by it.
        top_p: Keep the smallest set of tokens whose probability reaches this (Holtzman et al. 2019).
        top_k: Keep the most likely k tokens (Fan et al. 2018); 0 keeps all. Tokens as likely as the last are kept too.
        min_p: Keep tokens with at least this share of the most likely token's probability (Nguyen et al. 2024).
        seed: Makes the samples reproducible, whatever else is in the batch; None: a random one for each output.
        n: Number of outputs for the prompt.
        stop: Strings that end the text; they are not part of it.
        stop_token_ids: Tokens that end decoding, beside the model's end-of-sequence tokens.
        ignore_eos: Decode on through end-of-sequence tokens.
        logprobs: Report the log-probabilities of the chosen token and of this many top tokens.
        prompt_logprobs: The same for every prompt token; such a prompt is computed whole, without the prefix cache.
        presence_penalty: Subtracted from the logit of every token decoded so far (OpenAI's definition).
        frequency_penalty: Subtracted once for every time the token was decoded (OpenAI's definition).
        repetition_penalty: Divides positive (multiplies negative) logits of tokens seen in prompt or output
            (Keskar et al. 2019); applied before the other two.
        structured: What the text must be: a JSON schema (dict), a regular expression that all of it matches (str), or
            one of several texts (list of str). It ends where that is complete; ``max_tokens`` may cut it short.

    Raises:
        RequestError: A value is out of range, or two contradict each other.
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
    structured: dict[str, Any] | str | tuple[str, ...] | list[str] | None = None

    def __post_init__(self) -> None:
        """Check every value; numbers become plain ones, lists tuples, and a schema is copied."""
        for name, (low, high) in _INTEGERS.items():
            value = getattr(self, name)
            if value is not None or name not in _OPTIONAL:
                self._set(name, as_integer(name, value, low, high))
        for name, (least, most) in _FLOATS.items():
            self._set(name, as_float(name, getattr(self, name), least, most))
        self._set("ignore_eos", as_bool("ignore_eos", self.ignore_eos))
        stop = (self.stop,) if isinstance(self.stop, str) else self.stop
        self._set("stop", as_texts("stop", stop, MAX_STOPS, MAX_STOP_CHARS))
        ids = as_tuple("stop_token_ids", self.stop_token_ids)
        self._set("stop_token_ids", tuple(as_integer("stop_token_ids", i, 0, None) for i in ids))
        self._set("structured", as_structured(self.structured))
        self._check_together()

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)  # the class is frozen for everybody else

    def _check_together(self) -> None:
        if 0.0 < self.temperature < 1e-6:
            raise RequestError(
                f"temperature={self.temperature} is below 1e-06; use temperature=0.0 for greedy decoding"
            )
        if self.top_p == 0.0:
            raise RequestError("top_p=0.0 keeps no token; use temperature=0.0 for greedy decoding")
        if self.min_tokens > self.max_tokens:
            raise RequestError(
                f"min_tokens={shown(self.min_tokens)} is above max_tokens={shown(self.max_tokens)}; raise max_tokens"
            )
        if self.structured is not None and (self.ignore_eos or self.min_tokens):
            other = "ignore_eos=True" if self.ignore_eos else f"min_tokens={shown(self.min_tokens)}"
            raise RequestError(f"structured ends the text where it is complete, which {other} forbids; leave one out")

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings, always a tuple."""
        return tuple(self.stop or ())

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """The stop tokens."""
        return frozenset(self.stop_token_ids or ())

    @cached_property
    def is_plain(self) -> bool:
        """Whether the most likely token is all that is asked for, whatever was said before; grammars set aside."""
        reported = self.logprobs is not None or self.prompt_logprobs is not None
        return self.temperature == 0.0 and self.min_tokens == 0 and not self.has_penalties and not reported

    @cached_property
    def has_penalties(self) -> bool:
        """Whether what was decoded (or prompted) changes the logits."""
        return self.repetition_penalty != 1.0 or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0


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
    """A piece of a streamed answer.

    Attributes:
        text: The text that is new.
        token_ids: The ids that are new.
        finish_reason: Why it ended; set on the last piece.
        output: The whole answer; set on the last piece.
    """

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
        probability: Share of this candidate among all of them: the softmax of ``logprob`` divided by the adapter's
            temperature, which is 1 for the base model and where ``alorakit.json`` names none.
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
