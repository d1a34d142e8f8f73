"""Bodies that are JSON, and cost far more to read than to send."""

import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import psutil
import pytest

from tests.bindings.server.raw import shared_engine
from tests.bindings.server.running import CHAT, JSON, Client, Running, chat, error_of

engine = shared_engine
MANY = 300_000


def body(**fields: str) -> bytes:
    """A chat with fields as they are written."""
    plain = {"model": '"tiny"', "messages": '[{"role": "user", "content": "x"}]', **fields}
    return ("{" + ", ".join(f'"{name}": {value}' for name, value in plain.items()) + "}").encode()


def repeated(item: str, count: int = MANY) -> str:
    return "[" + ",".join([item] * count) + "]"


KEYS = ",".join(f'"k{index}": 1' for index in range(MANY))
COSTLY = {
    "a key twice among many": body(metadata="{" + KEYS + ', "k7": 2}'),
    "unknown fields": b"{" + KEYS.encode() + b"}",
    "keys below": body(metadata="{" + KEYS + "}"),
    "messages": body(messages=repeated("1")),
    "empty messages": body(messages=repeated("{}")),
    "parts": body(messages='[{"role": "user", "content": ' + repeated("0") + "}]"),
    "tool calls": body(messages='[{"role": "assistant", "tool_calls": ' + repeated("0") + "}]"),
    "tools": body(tools=repeated("0")),
    "choices": body(guided_choice=repeated("0")),
    "long choices": body(guided_choice=repeated('"x"')),
    "stop ids": body(stop_token_ids=repeated("-1")),
    "10,000 stops": body(stop=repeated('"x"', 10_000)),
    "stops of 1 MB": body(stop=repeated(f'"{"x" * 1_000_000}"', 3)),
    "brackets": repeated("[]").encode(),
    "floats": body(stop_token_ids=repeated("1e-9999")),
    "logprobs": body(top_logprobs=repeated("5")),
}


@pytest.mark.parametrize("name", COSTLY)
def test_costly_bodies(live: Callable[..., Running], name: str) -> None:
    server = live()
    process = psutil.Process()
    memory, started = process.memory_info().rss, time.thread_time()
    cpu = process.cpu_times().user
    error_of(httpx.post(server.url + CHAT, content=COSTLY[name], headers=JSON, timeout=60), 400)
    assert process.cpu_times().user - cpu < 5  # a second at most; a minute and more before there were limits
    assert process.memory_info().rss - memory < 200 << 20 and started >= 0
    assert httpx.post(server.url + CHAT, json=chat()).status_code == 200


NUMBERS = ["9" * 4000, "-" + "9" * 4000, "9" * 5000, "1e400", "-1e400", "NaN", "Infinity", "1e-400", str(2**63), "0.5",
           "-0", "true", '"5"', "null", "[]"]  # fmt: skip
FIELDS = ["temperature", "top_p", "n", "max_tokens", "min_tokens", "top_k", "seed", "presence_penalty", "min_p",
          "repetition_penalty", "top_logprobs", "stop_token_ids", "max_completion_tokens"]  # fmt: skip


def test_numbers(live: Callable[..., Running]) -> None:
    server = live(max_new_tokens=2, default_max_tokens=2)
    with httpx.Client(base_url=server.url) as http:
        for field in FIELDS:
            for number in NUMBERS:
                answer = http.post(CHAT, content=body(**{field: number}), headers=JSON)
                assert answer.status_code in (200, 400), (field, number, answer.text)
        for prompt in ("[9999999999999999999999]", "[-1]", "[[99999999999]]", "[1.0]", "[true]", "[[]]", "[]", '[""]',
                       '[1, "a"]', "[[1], 2]", "{}", '""', "[511, 512]", "[2147483647]"):  # fmt: skip
            raw = f'{{"model": "tiny", "prompt": {prompt}}}'
            answer = http.post("/v1/completions", content=raw, headers=JSON)
            assert answer.status_code == 400, (prompt, answer.text)
        for schema in ('{"minimum": %s}' % ("9" * 4000), '{"multipleOf": 0}', '{"maxLength": -1}', '{"enum": []}'):
            answer = http.post(CHAT, content=body(guided_json=schema), headers=JSON)
            assert answer.status_code in (200, 400), (schema, answer.text)


TEXTS = ["\\ud800", "\\udfff\\ud800", "a\\udc00b", "\\uDBFF"]
PLACES: dict[str, Callable[[str], dict[str, Any]]] = {
    "content": lambda text: {"messages": f'[{{"role": "user", "content": "{text}"}}]'},
    "name": lambda text: {"messages": f'[{{"role": "user", "content": "x", "name": "{text}"}}]'},
    "stop": lambda text: {"stop": f'"{text}"'},
    "regex": lambda text: {"guided_regex": f'"{text}"'},
    "choice": lambda text: {"guided_choice": f'["{text}"]'},
    "schema": lambda text: {"guided_json": f'{{"const": "{text}"}}'},
    "key": lambda text: {"metadata": f'{{"{text}": 1}}'},
    "model": lambda text: {"model": f'"{text}"'},
    "unknown": lambda text: {text: "1"},
}


def test_half_pairs_and_nul(live: Callable[..., Running]) -> None:
    server = live(max_new_tokens=2, default_max_tokens=2)
    with httpx.Client(base_url=server.url) as http:
        for name, place in PLACES.items():
            for text in TEXTS:
                message = error_of(http.post(CHAT, content=body(**place(text)), headers=JSON), 400)["message"]
                assert "surrogate" in message, name
            for text in ("\\u0000", "\\ud83d\\ude42", "\\uffff", "\\u202e", "\\u001b[31m"):
                answer = http.post(CHAT, content=body(**place(text)), headers=JSON)
                assert answer.status_code in (200, 400, 404), (name, text, answer.text)
                assert "\x1b" not in answer.text and answer.text.isascii()


def test_schemas_given_as_text(live: Callable[..., Running]) -> None:
    server = live(max_new_tokens=2, default_max_tokens=2)
    with httpx.Client(base_url=server.url) as http:
        for text in ("{" * 100_000, '{"a":' * 5000 + "1" + "}" * 5000, "NaN", "[1]", '"x"', "", "9" * 5000):
            answer = http.post(CHAT, content=body(guided_json=json.dumps(text)), headers=JSON)
            assert error_of(answer, 400)["param"] == "guided_json", answer.text
        call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "[" * 100_000}}
        messages = json.dumps([{"role": "assistant", "content": None, "tool_calls": [call]}])
        error_of(http.post(CHAT, content=body(messages=messages), headers=JSON), 400)


def test_in_process(client: Client) -> None:
    import asyncio

    async def ask() -> None:
        async with client() as http:
            # No server in front that refuses these lengths.
            for length in ("²", "1" * 30, "٣"):
                headers = [(b"content-type", b"application/json"), (b"content-length", length.encode("utf-8"))]
                answer = await http.post(CHAT, content=b"{}", headers=headers)
                assert answer.status_code in (400, 413), length

    asyncio.run(ask())
