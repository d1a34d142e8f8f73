"""Requests that are refused, as the openai client's exceptions: the field is named."""

from typing import Any

import openai
import pytest

from tests.bindings.server.running import USER

REFUSED: dict[str, tuple[dict[str, Any], type[openai.APIStatusError], str | None]] = {
    "unknown model": ({"model": "gpt"}, openai.NotFoundError, "model"),
    "unsupported field": ({"logit_bias": {"5": 1}}, openai.BadRequestError, "logit_bias"),
    "unknown field": ({"extra_body": {"colour": "red"}}, openai.BadRequestError, "colour"),
    "unknown field below": (
        {"messages": [{"role": "user", "content": "x", "mood": "good"}]},
        openai.BadRequestError,
        "messages.0.mood",
    ),
    "image": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        openai.BadRequestError,
        "messages.0.content.0.image_url",
    ),
    "no messages": ({"messages": []}, openai.BadRequestError, "messages"),
    "no content": ({"messages": [{"role": "user"}]}, openai.BadRequestError, "messages.0.content"),
    "role": ({"messages": [{"role": "king", "content": "x"}]}, openai.BadRequestError, "messages.0.role"),
    "temperature": ({"temperature": -1}, openai.BadRequestError, "temperature"),
    "tiny temperature": ({"temperature": 1e-9}, openai.BadRequestError, "temperature"),
    "a number as text": ({"temperature": "0"}, openai.BadRequestError, "temperature"),
    "n": ({"n": 0}, openai.BadRequestError, "n"),
    "max_tokens": ({"max_tokens": 65}, openai.BadRequestError, "max_tokens"),
    "top_logprobs": ({"top_logprobs": 2}, openai.BadRequestError, "top_logprobs"),
    "stops": ({"stop": ["x"] * 10_000}, openai.BadRequestError, "stop"),
    "stop token": ({"extra_body": {"stop_token_ids": [99999]}}, openai.BadRequestError, None),
    "tools": ({"tools": [{"type": "function", "function": {"name": "f"}}]}, openai.BadRequestError, "tools"),
    "tool_choice": ({"tool_choice": "required"}, openai.BadRequestError, "tool_choice"),
    "schema": (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nothing"}}}},
        openai.BadRequestError,
        "response_format",
    ),
    "two grammars": (
        {"extra_body": {"guided_regex": "a", "guided_choice": ["b"]}},
        openai.BadRequestError,
        "guided_choice",
    ),
    "guided_json": ({"extra_body": {"guided_json": "[1]"}}, openai.BadRequestError, "guided_json"),
    "template variable": (
        {"extra_body": {"chat_template_kwargs": {"messages": []}}},
        openai.BadRequestError,
        "chat_template_kwargs.messages",
    ),
    "long prompt": ({"messages": [{"role": "user", "content": "pump " * 3000}]}, openai.BadRequestError, None),
}


def test_options_of_a_stream_need_one(openai_client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="stream_options needs stream"):
        openai_client.completions.create(model="tiny", prompt="x", stream_options={"include_usage": True})


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("name", REFUSED)
def test_refused(openai_client: openai.OpenAI, name: str, stream: bool) -> None:
    asked, kind, param = REFUSED[name]
    with pytest.raises(kind) as refused:
        openai_client.chat.completions.create(**{"model": "tiny", "messages": [USER], "stream": stream, **asked})
    assert refused.value.param == param
    message = refused.value.body["message"]  # type: ignore[index]
    assert "\n" not in message and (param in message if param not in (None, "response_format") else message)
    assert refused.value.request_id


def test_suffix_is_refused(openai_client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="'suffix' is not supported"):
        openai_client.completions.create(model="tiny", prompt="x", suffix="y")
