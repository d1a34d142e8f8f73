"""From a caller's prompt to a sequence: tokenized, activation found, validated; refused here or never."""

import secrets
from array import array
from collections.abc import Sequence as Seq
from numbers import Integral
from types import UnionType
from typing import Any

import numpy as np

from alorakit.engine.adapters import Adapter
from alorakit.engine.branches import Branches
from alorakit.engine.config import EngineConfig
from alorakit.engine.errors import MissingInvocationError, RequestError, shown
from alorakit.engine.output import OutputText
from alorakit.engine.request import SamplingParams
from alorakit.engine.sequence import Sequence
from alorakit.engine.structured import Grammars, Matcher
from alorakit.engine.tokenizer import Tokenizer

Prompt = str | Seq[int]


class Admission:
    """Checks requests against the engine's limits.

    Attributes:
        max_len: Longest sequence in tokens.
    """

    def __init__(
        self,
        config: EngineConfig,
        tokenizer: Tokenizer,
        vocab_size: int,
        eos_token_ids: frozenset[int],
        max_len: int,
        capacity: int,
    ) -> None:
        """``max_len``: the context window; ``capacity``: tokens that the KV cache holds."""
        self._config, self._tokenizer, self._vocab_size = config, tokenizer, vocab_size
        self._grammars = Grammars(tokenizer, vocab_size, eos_token_ids)
        self._window, self._capacity = max_len, capacity
        self.max_len = min(max_len, capacity)

    def sequence(
        self,
        tokens: list[int],
        sampling: SamplingParams,
        adapter: Adapter | None,
        branches: Branches | None = None,
        prompt_index: int = 0,
        sample_index: int = 0,
    ) -> Sequence:
        """A validated sequence of the tokens that :meth:`tokenize` returned (they become its own), not yet queued.

        Raises:
            RequestError: An over-long prompt, a stop token outside the vocabulary, or an unusable grammar.
            MissingInvocationError: The aLoRA's invocation is not in the prompt and the engine may not add it.
        """
        self.check_ids(sorted(sampling.stop_ids))
        activation = None
        if adapter is not None:
            tokens, activation = self._activate(tokens, adapter)
        self._check_length(tokens, branches)
        return Sequence(
            tokens=tokens,
            num_prompt=len(tokens),
            max_len=min(len(tokens) + sampling.max_tokens, self.max_len),
            sampling=sampling,
            output=OutputText(self._tokenizer, sampling.stops, sampling.min_tokens),
            adapter=adapter,
            adapter_name=None if adapter is None else adapter.info.name,
            activation=activation,
            branches=branches,
            prompt_index=prompt_index,
            sample_index=sample_index,
            seed=secrets.randbits(64) if sampling.seed is None else sampling.seed,
            matcher=self.matcher(sampling),
        )

    def matcher(self, sampling: SamplingParams) -> Matcher | None:
        """A matcher at the start of the grammar that a request asks for; None if it may say anything.

        Raises:
            RequestError: The grammar cannot be used.
        """
        return self._grammars.matcher(sampling)

    def samples(
        self, prompt: Prompt, sampling: SamplingParams, adapter: Adapter | None, prompt_index: int = 0
    ) -> list[Sequence]:
        """The ``n`` sequences of one prompt; the first one's blocks will serve the others.

        Raises:
            RequestError: As :meth:`sequence`.
        """
        tokens = self.tokenize(prompt)
        return [
            self.sequence(list(tokens), sampling, adapter, None, prompt_index, index) for index in range(sampling.n)
        ]

    def tokenize(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt; a text gets the tokenizer's special tokens.

        Raises:
            RequestError: Neither a text nor a list of ids of the vocabulary, or empty.
        """
        if isinstance(prompt, str):
            tokens: list[int] = self._tokenizer.encode(prompt)
        elif isinstance(prompt, list | tuple):
            tokens = list(prompt)
            if tokens and self._are_ids(tokens):
                return tokens
            tokens = [int(t) if isinstance(t, Integral) and not isinstance(t, bool) else t for t in tokens]
        else:
            raise RequestError(f"prompt must be a text or a list of token ids, not {type(prompt).__name__}")
        if not tokens:
            raise RequestError("the prompt is empty; give at least one token")
        self.check_ids(tokens)
        return tokens

    def check_ids(self, tokens: Seq[int]) -> None:
        """RequestError if one is not a token id of the model."""
        if self._are_ids(tokens):
            return
        for token in tokens:
            if not isinstance(token, int) or isinstance(token, bool) or not 0 <= token < self._vocab_size:
                raise RequestError(f"token id {shown(token)} must be an integer from 0 to {self._vocab_size - 1}")

    def _are_ids(self, tokens: Seq[int]) -> bool:
        """Whether all are plain ints of the vocabulary; no loop in Python, as a prompt may have many thousands."""
        if not {*map(type, tokens)} <= {int}:
            return False
        try:
            ids = np.frombuffer(array("q", tokens), np.int64)
        except OverflowError:
            return False
        return not len(ids) or bool(ids.min() >= 0 and ids.max() < self._vocab_size)

    def candidate(self, text: str, end: bool) -> list[int]:
        """Token ids of a candidate, closed by end-of-sequence if ``end``.

        Raises:
            RequestError: Not a text, no tokens, or tokens that the model does not know.
        """
        if not isinstance(text, str):
            raise RequestError(f"candidate {shown(text)} must be a text")
        tokens = self._tokenizer.encode(text, add_special_tokens=False)
        if end:
            if self._tokenizer.eos_token_id is None:
                raise RequestError("the tokenizer has no end-of-sequence token; score with end=False")
            tokens.append(self._tokenizer.eos_token_id)
        if not tokens:
            raise RequestError(f"candidate {shown(text)} has no token; leave it out, or score with end=True")
        self.check_ids(tokens)
        return tokens

    def branch_budget(self, tokens: list[int], adapter: Adapter | None) -> int:
        """Rows that candidates of a prompt may take in one pass, the prompt's last token included."""
        invocation = 0 if adapter is None else len(adapter.info.invocation_tokens or ())
        room = self._capacity - len(tokens) - invocation
        return max(1, min(self._config.max_num_batched_tokens or room, room))

    def _activate(self, tokens: list[int], adapter: Adapter) -> tuple[list[int], int | None]:
        activation = adapter.find_activation(tokens)
        if activation is not None:
            return tokens, activation
        invocation = list(adapter.info.invocation_tokens or ())
        policy = self._config.on_missing_invocation
        if policy == "append":
            return tokens + invocation, len(tokens)
        if policy == "base":
            return tokens, None
        raise MissingInvocationError(
            f"adapter {adapter.info.name!r}: its invocation {self._tokenizer.decode(invocation, False)!r} (ids "
            f"{invocation}) is not in the prompt; add it at the end, or set EngineConfig.on_missing_invocation to "
            "'append' or 'base'"
        )

    def _check_length(self, tokens: list[int], branches: Branches | None) -> None:
        extra = 1 if branches is None else max(branches.positions, default=0) + 1
        if len(tokens) + extra > self._window:
            raise RequestError(
                f"the prompt has {len(tokens)} tokens and needs room for {extra} more, but the context window is "
                f"{self._window}; shorten it, or raise max_model_len if the model allows"
            )
        rows = len(tokens) + (1 if branches is None else branches.num_rows)
        if rows > self._capacity:
            raise RequestError(
                f"the prompt needs {rows} tokens of KV cache, but the cache holds {self._capacity}; "
                "raise cache_blocks or memory_fraction"
            )


def as_prompts(prompts: Prompt | Seq[Prompt]) -> list[Prompt]:
    """A caller's prompts as a list: one text, one list of ids, or a list of either."""
    if isinstance(prompts, str):
        return [prompts]
    if not isinstance(prompts, list | tuple):
        kind = type(prompts).__name__
        raise RequestError(f"prompts must be a text, a list of token ids, or a list of either, not {kind}")
    if prompts and all(issubclass(kind, Integral) for kind in {*map(type, prompts)}):
        return [prompts]
    return list(prompts)


def per_prompt(name: str, value: Any, count: int, kind: type | UnionType) -> list[Any]:
    """One value for each of ``count`` prompts; a list must already have that many.

    Raises:
        RequestError: A list of another length, or a value that is not of ``kind``.
    """
    values = list(value) if isinstance(value, list | tuple) else [value] * count
    if len(values) != count:
        raise RequestError(f"{name} has {len(values)} entries for {count} prompts; give one, or one per prompt")
    for item in values:
        if not isinstance(item, kind):
            raise RequestError(
                f"{name}={shown(item)} must be {getattr(kind, '__name__', kind)}, not {type(item).__name__}"
            )
    return values
