"""Structured output: which tokens may come next, by llguidance, so that the text becomes what was asked for."""

import json
import logging
import threading
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import Tokenizer as Backend
from torch import Tensor

from alorakit.engine.errors import RequestError, shown
from alorakit.engine.request import SamplingParams
from alorakit.engine.request_checks import grammar_source
from alorakit.engine.tokenizer import Tokenizer

if TYPE_CHECKING:  # loaded where a grammar is compiled: an engine without structured output does without it
    from llguidance import LLExecutor, LLMatcher, LLTokenizer

log = logging.getLogger("alorakit")

MAX_GRAMMARS = 16
# A grammar keeps up to 2 kB for each state that its lexer has met; five times as many are llguidance's default.
MAX_LEXER_STATES = 50_000
# JSON may have one space where it may have any: small models fill a line with them if they are let (as in outlines).
JSON_OPTIONS: Any = {"whitespace_pattern": " ?"}


@dataclass(frozen=True)
class Vocabulary:
    """The model's tokens as llguidance sees them.

    Attributes:
        tokenizer: llguidance's tokenizer.
        size: Number of tokens that masks speak of: the tokenizer's and the model's, whichever has more.
        model_size: The model's, which may be padded.
        end_token: An id that stands for end-of-sequence although the model has none, or None.
        added: Texts of special and added tokens, which no ordinary tokens spell.
    """

    tokenizer: "LLTokenizer"
    size: int
    model_size: int
    end_token: int | None
    added: tuple[str, ...]

    def forbidden(self, masks: Tensor) -> Tensor:
        """Masks as llguidance writes them, uint8 [rows, bytes] of one bit per token: bool [rows, model_size]."""
        bits = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8, device=masks.device)
        forbidden = (masks[:, :, None] & bits).eq(0).view(len(masks), -1)[:, : self.model_size]
        if self.end_token is not None and self.end_token < self.model_size:
            forbidden[:, self.end_token] = True
        return forbidden

    def allowed(self, state: "LLMatcher") -> Tensor:
        """Which tokens of the model may come next: bool [model_size]."""
        mask = torch.frombuffer(bytearray(state.compute_bitmask()), dtype=torch.uint8)
        return ~self.forbidden(mask[None])[0]


@dataclass
class Grammar:
    """A compiled grammar.

    Attributes:
        start: A matcher at its start; never advanced, only copied.
        vocabulary: What its masks speak of.
        failed: Whether a matcher of it ran into a limit. Copies share what the lexer has learnt, so it may be full.
    """

    start: "LLMatcher"
    vocabulary: Vocabulary
    failed: bool = False


class Matcher:
    """Where one sequence is in its grammar.

    Attributes:
        num_tokens: Decoded tokens that it has taken in. It takes in what the sequence has gained whenever it is
            asked, so neither a preemption nor a failed step can make the two differ.
    """

    def __init__(self, grammar: Grammar) -> None:
        """At the start of the grammar."""
        self.grammar, self.state = grammar, grammar.start.deep_copy()
        self.num_tokens = 0

    def advance(self, completion: list[int]) -> None:
        """Take in the tokens decoded since the last call.

        Args:
            completion: All tokens decoded so far.

        Raises:
            RequestError: The grammar forbids one, or became too complex.
        """
        self.state.consume_tokens(completion[self.num_tokens :])
        self.num_tokens = len(completion)
        self.check()

    def check(self) -> None:
        """RequestError if the matcher failed."""
        if self.state.is_error():
            self.grammar.failed = True
            raise RequestError(
                f"structured output failed after {self.num_tokens} tokens: {_reason(self.state)}; simplify the grammar"
            )

    def allowed(self, completion: list[int]) -> Tensor:
        """Which tokens of the model may follow ``completion``: bool [vocabulary].

        Raises:
            RequestError: As :meth:`advance`.
        """
        self.advance(completion)
        return self.grammar.vocabulary.allowed(self.state)

    def is_complete(self, completion: list[int]) -> bool:
        """Whether nothing can follow, and the model has no end-of-sequence token to say so."""
        if self.grammar.vocabulary.end_token is None:
            return False
        try:
            self.advance(completion)
        except RequestError:  # the next step's sampling will meet it too, and report it
            return False
        return self.state.is_stopped() or not self.grammar.vocabulary.allowed(self.state).any()


class Grammars:
    """Compiles grammars for one tokenizer; those used last are kept, since the same schema comes again and again.

    Any thread may ask for one.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos_token_ids: frozenset[int]) -> None:
        """``vocab_size``: the model's, which may be padded; ``eos_token_ids`` end the text where it is complete."""
        self._tokenizer, self._vocab_size, self._eos = tokenizer, vocab_size, eos_token_ids
        self._compiled: OrderedDict[tuple[str, str], Grammar] = OrderedDict()
        self._lock, self._vocabulary_lock = threading.Lock(), threading.Lock()

    def matcher(self, params: SamplingParams) -> Matcher | None:
        """A matcher for a new sequence, or None if it may say anything.

        Raises:
            RequestError: llguidance refuses the grammar, or no text of the model fits it.
        """
        if params.structured is None:
            return None
        source = grammar_source(params.structured)
        with self._lock:
            # One that ran into a limit is as large as grammars get.
            for failed in [key for key, grammar in self._compiled.items() if grammar.failed]:
                del self._compiled[failed]
            grammar = self._compiled.get(source)
            if grammar is not None:
                self._compiled.move_to_end(source)
                return Matcher(grammar)
        # Compiling may take seconds, for which nobody else waits; two that compile the same do so twice.
        grammar = self._compile(*source)
        with self._lock:
            self._compiled[source] = grammar
            if len(self._compiled) > MAX_GRAMMARS:
                self._compiled.popitem(last=False)
            return Matcher(grammar)

    def _compile(self, kind: str, text: str) -> Grammar:
        from llguidance import LLMatcher, LLParserLimits

        with self._vocabulary_lock:
            vocabulary = self._vocabulary
        said = "\n".join(json.loads(text)) if kind == "choice" else text.replace("\\", "")
        if found := next((name for name in vocabulary.added if name in said), None):
            raise RequestError(
                f"structured: {shown(text)} contains {found!r}, which the tokenizer takes for one of its own tokens, "
                "not for text; leave it out"
            )
        what = f"structured: the {'JSON schema' if kind == 'json' else kind} {shown(text)}"
        limits = LLParserLimits(max_lexer_states=MAX_LEXER_STATES)
        try:
            start = LLMatcher(vocabulary.tokenizer, _as_llguidance(kind, text), log_level=0, limits=limits)
        except ValueError as exc:  # a number that it cannot hold
            raise RequestError(f"{what} cannot be used: {exc}; change it") from exc
        if start.is_error():
            raise RequestError(f"{what} cannot be used: {_reason(start)}; change it")
        for warning in start.get_grammar_warnings():
            log.warning("%s: %s", what, " ".join(warning.split()))
        if not vocabulary.allowed(start).any() or start.is_error():
            raise RequestError(f"{what} cannot be used: no token of the model may begin such a text; change it")
        return Grammar(start, vocabulary)

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        """Made when it is first needed (a quarter of a second for 49k tokens)."""
        from llguidance import LLTokenizer

        backend = Backend.from_str(self._tokenizer.to_json())
        # Runs of blanks, which some tokenizers add, are text as well.
        texts = (token.content for token in backend.get_added_tokens_decoder().values())
        added = tuple(text for text in texts if len(text.strip()) > 1)
        ids = backend.get_vocab(with_added_tokens=True).values()
        eos, end_token = sorted(self._eos & set(ids)), None
        if not eos:  # llguidance wants one; masks leave it out again
            backend.add_special_tokens([name := f"<|end of {max(ids)}|>"])
            end_token = backend.token_to_id(name)
            assert end_token is not None
            eos = [end_token]
        size = max(self._vocab_size, max(ids) + 1, eos[-1] + 1)
        try:
            tokenizer = LLTokenizer(backend.to_str(), n_vocab=size, eos_token=eos)
        except ValueError as exc:
            raise RequestError(f"structured output cannot be had with this model's tokenizer: {exc}") from exc
        return Vocabulary(tokenizer, size, self._vocab_size, end_token, added)


def forbidden_tokens(executor: "LLExecutor", matchers: list[Matcher], device: torch.device) -> Tensor:
    """Which tokens each matcher forbids next.

    Args:
        executor: Computes the masks in parallel.
        matchers: Of one vocabulary, advanced to where their sequences are. :meth:`Matcher.check` tells whether one
            failed at this; its row means nothing then.
        device: Where the result goes.

    Returns:
        bool [matchers, model's vocabulary].
    """
    vocabulary = matchers[0].grammar.vocabulary
    num_bytes = -(-vocabulary.size // 32) * 4
    masks = torch.zeros(len(matchers), num_bytes, dtype=torch.uint8)
    rows = [(matcher.state, row) for row, matcher in enumerate(matchers)]
    executor.unsafe_compute_mask_ptr(rows, masks.data_ptr(), num_bytes, len(matchers))
    return vocabulary.forbidden(masks.to(device))


def _as_llguidance(kind: str, text: str) -> str:
    from llguidance import LLMatcher

    if kind == "json":
        return LLMatcher.grammar_from_json_schema(text, defaults=JSON_OPTIONS)
    if kind == "regex":
        return LLMatcher.grammar_from_regex(text)
    return LLMatcher.grammar_from_lark("start: " + " | ".join(json.dumps(choice) for choice in json.loads(text)))


def _reason(matcher: "LLMatcher") -> str:
    """The error that llguidance reports, on one line and without the dump of its state."""
    return " ".join(matcher.get_error().split("<state>")[0].split())[:300]
