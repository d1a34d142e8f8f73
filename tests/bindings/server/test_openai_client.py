"""The unmodified openai client against a server on loopback; answers are compared with the engine's own."""

import asyncio
from collections import defaultdict
from typing import Any

import openai
import pytest

from alorakit import SamplingParams
from alorakit.bindings.server.schemas_chat import ChatCompletion
from alorakit.bindings.server.schemas_completions import Completion
from alorakit.engine.request import RequestOutput
from tests.bindings.server.running import USER, Running

SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}},
    "required": ["ok"],
    "additionalProperties": False,
}
# What is asked for, and the same in the engine's words where these differ.
OPTIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "greedy": ({"temperature": 0}, {"temperature": 0.0}),
    "sampled": ({"seed": 7}, {"temperature": 1.0}),
    "temperature": ({"seed": 7, "temperature": 1.7}, {}),
    "n": ({"seed": 7, "n": 3}, {"temperature": 1.0}),
    "top_p": ({"seed": 8, "top_p": 0.5}, {"temperature": 1.0}),
    "top_k": ({"seed": 8, "top_k": 3}, {"temperature": 1.0}),
    "min_p": ({"seed": 8, "min_p": 0.3}, {"temperature": 1.0}),
    "stop": ({"temperature": 0, "stop": "a"}, {}),
    "stops": ({"temperature": 0, "stop": ["e", "i", "o", " "]}, {}),
    "stop_token_ids": ({"temperature": 0, "stop_token_ids": list(range(100, 400, 5))}, {}),
    "penalties": ({"temperature": 0, "presence_penalty": 1.5, "frequency_penalty": 0.5}, {}),
    "repetition_penalty": ({"temperature": 0, "repetition_penalty": 1.9}, {}),
    "min_tokens": ({"seed": 9, "min_tokens": 5}, {"temperature": 1.0}),
    "ignore_eos": ({"seed": 9, "ignore_eos": True}, {"temperature": 1.0}),
    "guided_regex": ({"seed": 9, "guided_regex": "[a-c]{3}x"}, {"temperature": 1.0, "structured": "[a-c]{3}x"}),
    "guided_choice": ({"temperature": 0, "guided_choice": ["yes", "no"]}, {"structured": ["yes", "no"]}),
    "guided_json": ({"temperature": 0, "guided_json": SCHEMA, "max_tokens": 40}, {"structured": SCHEMA}),
}
EXTRA = ("top_k", "min_p", "stop_token_ids", "repetition_penalty", "min_tokens", "ignore_eos")


def split(options: dict[str, Any]) -> dict[str, Any]:
    """The client's arguments: what OpenAI does not know goes into the body as it is."""
    extra = {name: value for name, value in options.items() if name in EXTRA or name.startswith("guided_")}
    return {name: value for name, value in options.items() if name not in extra} | {"extra_body": extra}


def expected(server: Running, prompt: Any, name: str, adapter: str | None = None) -> list[RequestOutput]:
    asked, own = OPTIONS[name]
    fields = {"max_tokens": 6} | {k: v for k, v in asked.items() if not k.startswith("guided_")} | own
    return asyncio.run(server.served.generate(prompt, SamplingParams(**fields), adapter))


def said(outputs: list[RequestOutput]) -> list[tuple[str, str]]:
    return [(output.text, output.finish_reason) for output in outputs]


def gathered(chunks: Any) -> list[tuple[str, str]]:
    """Text and finish reason of each answer of a stream, and that its last chunk ends it."""
    texts: dict[int, str] = defaultdict(str)
    reasons: dict[int, str] = {}
    for chunk in chunks:
        [choice] = chunk.choices
        assert choice.index not in reasons
        texts[choice.index] += (choice.delta.content if hasattr(choice, "delta") else choice.text) or ""
        if choice.finish_reason:
            reasons[choice.index] = choice.finish_reason
    assert texts.keys() == reasons.keys() or set(reasons) > set(texts)
    return [(texts[index], reasons[index]) for index in sorted(reasons)]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("name", OPTIONS)
def test_chat(server: Running, openai_client: openai.OpenAI, name: str, stream: bool) -> None:
    options = {"max_tokens": 6, **OPTIONS[name][0]}
    answer = openai_client.chat.completions.create(model="tiny", messages=[USER], stream=stream, **split(options))
    wanted = expected(server, server.served.tokenizer.render([USER], True), name)
    if stream:
        assert gathered(answer) == said(wanted)
        return
    assert [(choice.message.content, choice.finish_reason) for choice in answer.choices] == said(wanted)
    assert answer.usage.prompt_tokens == wanted[0].usage.prompt_tokens
    assert answer.usage.completion_tokens == sum(len(output.token_ids) for output in wanted)
    ChatCompletion.model_validate(answer.model_dump(exclude_unset=True))


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("name", OPTIONS)
def test_completions(server: Running, openai_client: openai.OpenAI, name: str, stream: bool) -> None:
    options = {"max_tokens": 6, **OPTIONS[name][0]}
    prompts = ["The pump", "Café, naïve"]
    answer = openai_client.completions.create(model="tiny", prompt=prompts, stream=stream, **split(options))
    wanted = expected(server, prompts, name)
    if stream:
        assert gathered(answer) == said(wanted)
        return
    assert [(choice.text, choice.finish_reason) for choice in answer.choices] == said(wanted)
    Completion.model_validate(answer.model_dump(exclude_unset=True))


@pytest.mark.parametrize("prompt", [[40, 41, 42], [[40, 41], [42, 43, 44]]], ids=["ids", "lists"])
def test_prompts_of_ids(server: Running, openai_client: openai.OpenAI, prompt: Any) -> None:
    answer = openai_client.completions.create(model="tiny", prompt=prompt, temperature=0, max_tokens=6)
    assert [(choice.text, choice.finish_reason) for choice in answer.choices] == said(
        expected(server, prompt, "greedy")
    )


@pytest.mark.parametrize("model", ["parts", "checker"])
def test_adapters_are_models(server: Running, openai_client: openai.OpenAI, model: str) -> None:
    tokenizer, info = server.served.tokenizer, server.served.adapters[model]
    prompt = tokenizer.render([USER]) + list(info.invocation_tokens or ())
    wanted = expected(server, prompt, "greedy", model)
    answer = openai_client.chat.completions.create(model=model, messages=[USER], temperature=0, max_tokens=6)
    assert [(answer.choices[0].message.content, answer.choices[0].finish_reason)] == said(wanted)
    assert wanted[0].activation is not None
    assert answer.model == model
    answer = openai_client.completions.create(model=model, prompt=prompt, temperature=0, max_tokens=6)
    assert answer.choices[0].text == wanted[0].text


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_chat_logprobs(server: Running, openai_client: openai.OpenAI, stream: bool) -> None:
    prompt = server.served.tokenizer.render([USER], True)
    params = SamplingParams(max_tokens=6, logprobs=2, stop="e")
    [wanted] = asyncio.run(server.served.generate([prompt], params))
    asked: Any = {"temperature": 0, "max_tokens": 6, "logprobs": True, "top_logprobs": 2, "stop": "e"}
    answer = openai_client.chat.completions.create(model="tiny", messages=[USER], stream=stream, **asked)
    parts = [c.choices[0].logprobs for c in answer] if stream else [answer.choices[0].logprobs]
    told = [token for part in parts if part for token in part.content]
    assert wanted.logprobs is not None
    for token, ours, found in zip(wanted.token_ids, told, wanted.logprobs, strict=True):
        assert ours.logprob == pytest.approx(found[token], abs=1e-4)
        assert [top.logprob for top in ours.top_logprobs] == pytest.approx(sorted(found.values())[:-3:-1], abs=1e-4)
        assert ours.token == server.served.tokenizer.decode([token], False)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_echo_and_logprobs_of_the_prompt(server: Running, openai_client: openai.OpenAI, stream: bool) -> None:
    params = SamplingParams(max_tokens=3, logprobs=1, prompt_logprobs=1)
    [wanted] = asyncio.run(server.served.generate(["The pump"], params))
    answer = openai_client.completions.create(
        model="tiny", prompt="The pump", temperature=0, max_tokens=3, logprobs=1, echo=True, stream=stream
    )
    choices = [chunk.choices[0] for chunk in answer] if stream else answer.choices
    assert "".join(choice.text for choice in choices) == f"The pump{wanted.text}"
    values = [value for choice in choices if choice.logprobs for value in choice.logprobs.token_logprobs]
    ids = server.served.tokenizer.encode("The pump") + wanted.token_ids
    found = [*(wanted.prompt_logprobs or ()), *(wanted.logprobs or ())]
    assert values[0] is None
    assert values[1:] == pytest.approx([f[i] for f, i in zip(found[1:], ids[1:], strict=True) if f], abs=1e-4)
    offsets = [offset for choice in choices if choice.logprobs for offset in choice.logprobs.text_offset]
    assert offsets == sorted(offsets) and offsets[0] == 0


@pytest.mark.parametrize("kind", ["json_schema", "json_object"])
def test_response_format(openai_client: openai.OpenAI, kind: str) -> None:
    form: Any = {"type": kind}
    if kind == "json_schema":
        form["json_schema"] = {"name": "verdict", "schema": SCHEMA, "strict": True}
    answer = openai_client.chat.completions.create(
        model="tiny", messages=[USER], seed=1, max_completion_tokens=40, response_format=form
    )
    text = answer.choices[0].message.content
    assert text is not None and text.startswith("{")
    if kind == "json_schema":
        assert text.replace(" ", "") in ('{"ok":true}', '{"ok":false}')


@pytest.mark.parametrize("endpoint", ["chat", "completions"])
def test_usage_ends_a_stream(openai_client: openai.OpenAI, endpoint: str) -> None:
    asked: Any = {"model": "tiny", "temperature": 0, "max_tokens": 4, "stream": True, "n": 2}
    asked["stream_options"] = {"include_usage": True}
    if endpoint == "chat":
        chunks = list(openai_client.chat.completions.create(messages=[USER], **asked))
        assert chunks[0].choices[0].delta.role == "assistant"
    else:
        chunks = list(openai_client.completions.create(prompt="The pump", **asked))
    *others, last = chunks
    assert last.choices == [] and all(chunk.usage is None for chunk in others)
    assert last.usage.completion_tokens == 8
    assert last.usage.total_tokens == 8 + last.usage.prompt_tokens
    assert len({chunk.id for chunk in chunks}) == 1


def test_parts_and_roles_are_read(server: Running, openai_client: openai.OpenAI) -> None:
    parts: Any = [{"type": "text", "text": "The pump"}, {"type": "text", "text": "vibrates."}]
    messages: Any = [{"role": "developer", "content": "Be short."}, {"role": "user", "content": parts}]
    answer = openai_client.chat.completions.create(
        model="tiny", messages=messages, temperature=0, max_tokens=6, user="me", metadata={"a": "b"}, store=False
    )
    plain = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "The pump\nvibrates."}]
    wanted = expected(server, server.served.tokenizer.render(plain, True), "greedy")
    assert answer.choices[0].message.content == wanted[0].text


def test_models(openai_client: openai.OpenAI) -> None:
    listed = openai_client.models.list().data
    assert [model.id for model in listed] == ["tiny", "parts", "checker"]
    assert openai_client.models.retrieve("checker") == listed[2]
    with pytest.raises(openai.NotFoundError) as refused:
        openai_client.models.retrieve("org/nothing")
    assert refused.value.code == "model_not_found"


def test_keys(server: Running) -> None:
    assert openai.OpenAI(base_url=f"{server.url}/v1", api_key="other").models.list().data
    for key in ("wrong", "secre", "secret2"):
        with pytest.raises(openai.AuthenticationError) as refused:
            openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0).models.list()
        assert refused.value.code == "invalid_api_key"


def test_async_client(server: Running) -> None:
    async def ask() -> None:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="secret", max_retries=0) as client:
            asked: Any = {"model": "tiny", "messages": [USER], "temperature": 0, "max_tokens": 6}
            whole, chunks = await asyncio.gather(
                client.chat.completions.create(**asked), client.chat.completions.create(stream=True, **asked)
            )
            streamed = [chunk async for chunk in chunks]
            assert gathered(streamed) == [(whole.choices[0].message.content, whole.choices[0].finish_reason)]
            text = await client.completions.create(model="tiny", prompt="The pump", temperature=0, max_tokens=6)
            [wanted] = await server.served.generate("The pump", SamplingParams(max_tokens=6))
            assert text.choices[0].text == wanted.text
            with pytest.raises(openai.NotFoundError):
                await client.chat.completions.create(**{**asked, "model": "nothing"})
            assert [model.id async for model in client.models.list()] == ["tiny", "parts", "checker"]

    asyncio.run(ask())
