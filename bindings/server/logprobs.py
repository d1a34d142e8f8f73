"""Log-probabilities as OpenAI's two endpoints report them."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alorakit.engine.tokenizer import Tokenizer

Logprobs = Mapping[int, float]


def chat_logprobs(tokenizer: "Tokenizer", ids: Sequence[int], logprobs: Sequence[Logprobs], top: int) -> dict[str, Any]:
    """``choices[].logprobs`` of a chat.

    Args:
        tokenizer: The model's.
        ids: The tokens.
        logprobs: For each, the engine's dict of token id to log-probability.
        top: How many of the most likely ones to list.
    """
    content = [
        {
            **_told(tokenizer, token, found[token]),
            "top_logprobs": [_told(tokenizer, other, value) for other, value in _most_likely(found, top)],
        }
        for token, found in zip(ids, logprobs, strict=True)
    ]
    return {"content": content, "refusal": None}


def text_logprobs(
    tokenizer: "Tokenizer", ids: Sequence[int], logprobs: Sequence[Logprobs | None], top: int, offset: int
) -> dict[str, Any]:
    """``choices[].logprobs`` of a completion.

    Args:
        tokenizer: The model's.
        ids: The tokens.
        logprobs: For each, the engine's dict of token id to log-probability; None for a prompt's first token.
        top: How many of the most likely ones to list.
        offset: Where the first token's text begins.
    """
    tokens = [_text(tokenizer, token) for token in ids]
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token)
    return {
        "tokens": tokens,
        "token_logprobs": [None if f is None else f[token] for token, f in zip(ids, logprobs, strict=True)],
        "top_logprobs": [
            None if f is None else {_text(tokenizer, other): value for other, value in _most_likely(f, top)}
            for f in logprobs
        ],
        "text_offset": offsets,
    }


def _most_likely(found: Logprobs, top: int) -> list[tuple[int, float]]:
    return sorted(found.items(), key=lambda item: -item[1])[:top]


def _told(tokenizer: "Tokenizer", token: int, logprob: float) -> dict[str, Any]:
    text = _text(tokenizer, token)
    # A token of some bytes of a character has no text of its own, and which bytes is the tokenizer's secret.
    return {"token": text, "logprob": logprob, "bytes": None if "\ufffd" in text else list(text.encode())}


def _text(tokenizer: "Tokenizer", token: int) -> str:
    return tokenizer.decode([token], skip_special_tokens=False)
