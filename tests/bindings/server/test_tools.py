import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from alorakit import Engine
from alorakit.bindings.server.tools import ToolText, parse_calls
from tests.bindings.server.running import USER, Running, running

NAMES = ("weather", "add")
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather of a city.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]
TEMPLATE = (
    "{% if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
    "{% for call in message.tool_calls %}<tool_call>{{ call.function.arguments.city }}</tool_call>{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PARSED: dict[str, tuple[str, str, list[tuple[str, dict[str, Any]]]]] = {
    "none": ("It is cold.", "It is cold.", []),
    "one": (CALL, "", [("weather", {"city": "Oslo"})]),
    "after a text": (f"Let me look.\n{CALL}", "Let me look.", [("weather", {"city": "Oslo"})]),
    "two": (
        f'{CALL}\n<tool_call>{{"name": "add", "arguments": {{"a": 1}}}}',
        "",
        [("weather", {"city": "Oslo"}), ("add", {"a": 1})],
    ),
    "Granite": (
        '<|tool_call|>[{"name": "add", "arguments": {"a": 1}}, {"name": "weather", "arguments": {}}]',
        "",
        [("add", {"a": 1}), ("weather", {})],
    ),
    "Granite's mark unseen": ('[{"name": "add", "arguments": {"a": 1}}]', "", [("add", {"a": 1})]),
    "Llama": ('{"name": "add", "parameters": {"a": 1}}', "", [("add", {"a": 1})]),
    "arguments as text": ('{"name": "add", "arguments": "{\\"a\\": 1}"}', "", [("add", {"a": 1})]),
    "another tool": ('<tool_call>{"name": "rm", "arguments": {}}</tool_call>', "same", []),
    "one of another": (f'{CALL}<tool_call>{{"name": "rm"}}</tool_call>', "same", []),
    "broken": ('<tool_call>{"name": "add", "arg', "same", []),
    "JSON that is no call": ('{"answer": 3}', "same", []),
    "a list": ("[1, 2]", "same", []),
    "an empty list": ("[]", "same", []),
    "a mark alone": ("a < b <tool_", "same", []),
    "deep": ("[" * 5000, "same", []),
}


@pytest.mark.parametrize("name", PARSED)
def test_parse(name: str) -> None:
    text, content, calls = PARSED[name]
    found, parsed = parse_calls(text, NAMES)
    assert found == (text if content == "same" else content)
    assert [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in parsed] == calls
    assert len({call["id"] for call in parsed}) == len(calls)


@pytest.mark.parametrize("size", [1, 3, 50])
@pytest.mark.parametrize("name", PARSED)
def test_a_stream_shows_no_call_and_loses_no_text(name: str, size: int) -> None:
    text, _, calls = PARSED[name]
    content = parse_calls(text, NAMES)[0]
    stream, shown = ToolText(NAMES), ""
    for at in range(0, len(text), size):
        shown += stream.push(text[at : at + size])
        assert content.startswith(shown)
    rest, found = stream.finish()
    assert shown + rest == content and len(found) == len(calls)


def test_a_text_is_streamed_as_it_comes() -> None:
    stream = ToolText(NAMES)
    assert [stream.push(piece) for piece in ("It is", " cold <", "b> and ", "<tool", " off")] == [
        "It is", " cold", " <b> and", "", " <tool off",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def tooled(served_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("tools") / "model"
    folder.mkdir()
    for file in (served_folder / "model").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    with Engine.from_pretrained(folder, dtype="float32", device="cpu", block_size=16) as engine, running(engine) as run:
        yield run


@pytest.fixture(scope="module")
def tool_client(tooled: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{tooled.url}/v1", api_key="none", max_retries=0)


# A random model calls no tool, so its grammar makes it do so.
FORCED: Any = {"model": "tiny", "tools": TOOLS, "max_tokens": 200, "temperature": 0}


def forced(text: str) -> dict[str, Any]:
    return {**FORCED, "messages": [USER], "extra_body": {"guided_choice": [text]}}


def test_a_call(tool_client: openai.OpenAI) -> None:
    [choice] = tool_client.chat.completions.create(**forced(f"Look:\n{CALL}")).choices
    [call] = choice.message.tool_calls or []
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "Look:")
    assert (call.type, call.function.name, json.loads(call.function.arguments)) == (  # type: ignore[union-attr]
        "function", "weather", {"city": "Oslo"},
    )  # fmt: skip


def test_a_streamed_call(tool_client: openai.OpenAI) -> None:
    chunks = list(tool_client.chat.completions.create(stream=True, **forced(f"Look:\n{CALL}")))
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert "".join(delta.content or "" for delta in deltas) == "Look:"
    [call] = [call for delta in deltas for call in delta.tool_calls or ()]
    assert (call.index, call.function.name, json.loads(call.function.arguments)) == (0, "weather", {"city": "Oslo"})
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("parallel", [False, True])
def test_parallel_calls(tool_client: openai.OpenAI, parallel: bool, stream: bool) -> None:
    asked = forced(f"{CALL}\n{CALL}")
    answer = tool_client.chat.completions.create(parallel_tool_calls=parallel, stream=stream, **asked)
    messages = [chunk.choices[0].delta for chunk in answer] if stream else [answer.choices[0].message]
    assert sum(len(message.tool_calls or ()) for message in messages) == 1 + parallel


def test_the_calls_answer_is_read(tooled: Running, tool_client: openai.OpenAI) -> None:
    asked = tool_client.chat.completions.create(**forced(CALL)).choices[0].message
    assert asked.content is None and asked.tool_calls
    messages: Any = [USER, asked, {"role": "tool", "content": "4 degrees", "tool_call_id": asked.tool_calls[0].id}]
    answer = tool_client.chat.completions.create(**{**FORCED, "messages": messages, "max_tokens": 4})
    call = {"function": {"name": "weather", "arguments": {"city": "Oslo"}}}
    plain = [USER, {"role": "assistant", "content": "", "tool_calls": [call]}, {**messages[2]}]
    ids = tooled.served.tokenizer.render(plain, True, tools=TOOLS)
    assert answer.usage is not None and answer.usage.prompt_tokens == len(ids)
    assert "Oslo" in tooled.served.tokenizer.decode(ids)


def test_no_tool_may_be_called(tooled: Running, tool_client: openai.OpenAI) -> None:
    answer = tool_client.chat.completions.create(tool_choice="none", **forced(CALL))
    assert (answer.choices[0].message.content, answer.choices[0].message.tool_calls) == (CALL, None)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(tooled.served.tokenizer.render([USER], True))


def test_arguments_that_are_no_json(tool_client: openai.OpenAI) -> None:
    call = {"id": "x", "type": "function", "function": {"name": "weather", "arguments": "{"}}
    messages: Any = [USER, {"role": "assistant", "tool_calls": [call]}]
    with pytest.raises(openai.BadRequestError) as refused:
        tool_client.chat.completions.create(**{**FORCED, "messages": messages})
    assert refused.value.param == "messages.1.tool_calls.0.function.arguments"


def test_a_call_is_remembered_as_text_only(tooled: Running, tool_client: openai.OpenAI) -> None:
    answer = tool_client.chat.completions.create(**forced(CALL))
    asyncio.run(tooled.served.drain())
    restored = tooled.app.state.alorakit.history.restore(
        [USER, {"role": "assistant", "content": "", "tool_calls": answer.choices[0].message.model_dump()["tool_calls"]}]
    )
    assert all("token_ids" not in message for message in restored)
