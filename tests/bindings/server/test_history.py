import asyncio
from typing import Any

import pytest

from tests.bindings.server.running import USER, Client, chat, events

NEXT = {"role": "user", "content": "And the second cylinder?"}


def whole(answer: Any) -> tuple[str, dict[str, Any]]:
    body = answer.json()
    assert answer.status_code == 200, body
    return body["choices"][0]["message"]["content"], body["usage"]


def streamed(answer: Any) -> tuple[str, dict[str, Any]]:
    chunks = events(answer.text)
    texts = [choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"]]
    return "".join(texts), chunks[-1]["usage"]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("more", [{"max_tokens": 40}, {"max_tokens": 40, "stop_token_ids": list(range(60, 120))}])
def test_the_next_turn_reads_only_what_is_new(client: Client, stream: bool, more: dict[str, Any]) -> None:
    async def ask() -> None:
        async with client() as http:
            tokenizer, read = http.served.tokenizer, streamed if stream else whole  # type: ignore[attr-defined]
            asked: dict[str, Any] = {"stream_options": {"include_usage": True}, "stream": True} if stream else {}
            messages = [USER]
            before: dict[str, Any] | None = None
            for seed in range(4):
                request = chat(messages=messages, temperature=1.0, seed=seed, **more, **asked)
                text, usage = read(await http.post("/v1/chat/completions", json=request))
                cached = usage["prompt_tokens_details"]["cached_tokens"]
                if before is not None:
                    # All of the last turn but its last sampled token, which never had a KV.
                    assert cached == before["total_tokens"] - 1
                messages = [*messages, {"role": "assistant", "content": text}, NEXT]
                before = usage
            # Tokenized again, the answers would not be what was generated.
            told = http.app.state.alorakit.history.restore(messages)  # type: ignore[attr-defined]
            turns = [message for message in told if message["role"] == "assistant"]
            assert any(tokenizer.encode(turn["content"]) != turn["token_ids"] for turn in turns)
            assert http.served.stats().splice_fallbacks == 0  # type: ignore[attr-defined]

    asyncio.run(ask())


def test_another_chat_or_text_is_read_as_text(client: Client) -> None:
    async def ask() -> None:
        async with client() as http:
            state = http.app.state.alorakit  # type: ignore[attr-defined]
            text, _ = whole(await http.post("/v1/chat/completions", json=chat(max_tokens=20)))
            told = [USER, {"role": "assistant", "content": text}, NEXT]
            assert "token_ids" in state.history.restore(told)[1]
            for other in (
                [NEXT, *told[1:]],
                [told[0], {"role": "assistant", "content": f"{text}."}, NEXT],
                [told[0], {"role": "user", "content": text}, NEXT],
            ):
                assert all("token_ids" not in message for message in state.history.restore(other))
                assert (await http.post("/v1/chat/completions", json=chat(messages=other))).status_code == 200

    asyncio.run(ask())


def test_each_sample_is_remembered(client: Client) -> None:
    async def ask() -> None:
        async with client() as http:
            answer = (await http.post("/v1/chat/completions", json=chat(n=3, temperature=1.0, seed=5))).json()
            for choice in answer["choices"]:
                messages = [USER, {"role": "assistant", "content": choice["message"]["content"]}, NEXT]
                _, usage = whole(await http.post("/v1/chat/completions", json=chat(messages=messages)))
                [_, told, _] = http.app.state.alorakit.history.restore(messages)  # type: ignore[attr-defined]
                wanted = answer["usage"]["prompt_tokens"] + len(told["token_ids"]) - 1
                assert usage["prompt_tokens_details"]["cached_tokens"] == wanted

    asyncio.run(ask())
