"""Formats, tools, thinking, chat-template variables, raw batches, and what is no text."""

import asyncio
import logging

import pydantic
import pytest
from mellea import MelleaSession
from mellea.backends import ModelOption
from mellea.backends.tools import MelleaTool
from mellea.core import CBlock, ImageBlock
from mellea.stdlib.components import Message
from mellea.stdlib.context import ChatContext, SimpleContext

from alorakit.engine.errors import AlorakitError, ConfigError, RequestError
from tests.engine.folders import make_model

# Shows tools and thinking, as Qwen's template does.
TEMPLATE = (
    "{% if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool['function']['name'] }} {% endfor %}<|im_end|>\n"
    "{% endif %}{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '<think></think>' }}{% endif %}"
    "{% if mood is defined %}{{ mood }}{% endif %}{% endif %}"
)


class Person(pydantic.BaseModel, extra="forbid"):
    name: str = pydantic.Field(max_length=8)
    age: int = pydantic.Field(ge=0, le=99)


def add(x: int, y: int = 2) -> int:
    """Add two numbers.

    Args:
        x: One.
        y: The other.
    """
    return x + y


ADD = MelleaTool.from_callable(add)
CALL = '<tool_call>{"name": "add", "arguments": {"x": 3, "y": 4}}</tool_call>'


@pytest.fixture(scope="module")
def tool_base(tmp_path_factory, tiny_tokenizer_dir):
    folder = make_model(tmp_path_factory.mktemp("models") / "Tools", tiny_tokenizer_dir, max_position_embeddings=2048)
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    return folder


@pytest.fixture
def tool_backend(new_backend, tool_base):
    return new_backend(model_id=str(tool_base), model_options={"max_tokens": 8})


def run(backend, action, options=None, **more):
    async def go():
        action_ = action if not isinstance(action, str) else CBlock(action)
        thunk, _ = await backend.generate_from_context(action_, ChatContext(), model_options=options, **more)
        await thunk.avalue()
        return thunk

    return asyncio.run(go())


@pytest.fixture
def prompts(monkeypatch):
    """The texts that the engine was given."""
    from alorakit.engine.async_engine import AsyncEngine

    seen, batch = [], AsyncEngine.batch

    async def spy(self, requests, priority=0):
        seen.extend(self.tokenizer.decode(r.prompt, skip_special_tokens=False) for r in requests)
        return await batch(self, requests, priority)

    monkeypatch.setattr(AsyncEngine, "batch", spy)
    return seen


def test_a_format_gives_valid_json(backend):
    session = MelleaSession(backend, ctx=SimpleContext())
    for seed in range(3):
        thunk = session.instruct("A person", format=Person, model_options={"max_tokens": 200, "seed": seed})
        person = Person.model_validate_json(str(thunk))
        assert len(person.name) <= 8 and 0 <= person.age <= 99
        assert thunk.generation.finish_reasons == ["stop"] or thunk.value.endswith("}")


def test_a_format_that_is_cut_off_says_so_in_its_finish_reason(backend):
    thunk = run(backend, "A person", {"max_tokens": 3}, format=Person)
    assert thunk.generation.finish_reasons == ["length"]
    with pytest.raises(pydantic.ValidationError):
        Person.model_validate_json(thunk.value)


def test_a_format_streams(backend):
    thunk = run(backend, "A person", {"max_tokens": 200, ModelOption.STREAM: True}, format=Person)
    Person.model_validate_json(thunk.value)


@pytest.mark.parametrize("format", ["json", {"type": "object"}, int, Person(name="a", age=1)], ids=repr)
def test_a_format_must_be_a_pydantic_class(backend, engine, format):
    with pytest.raises(RequestError, match="BaseModel"):
        run(backend, "A person", format=format)
    with pytest.raises(RequestError, match="BaseModel"):
        asyncio.run(backend.generate_from_raw([CBlock("x")], ChatContext(), format=format))
    assert engine.stats().requests == 0


def test_tool_calls_are_read(tool_backend, scripted):
    scripted(CALL)
    thunk = run(tool_backend, "Add 3 and 4.", {ModelOption.TOOLS: [ADD]}, tool_calls=True)
    [call] = thunk.tool_calls
    assert (call.name, call.args, call.call_func()) == ("add", {"x": 3, "y": 4}, 7)
    assert thunk._generate_log.extra["tools_available"].keys() == {"add"}


@pytest.mark.parametrize(
    ("options", "tool_calls", "shown"),
    [
        ({}, True, True),
        ({"tool_choice": "auto"}, True, True),
        ({"tool_choice": "add"}, True, True),
        ({"tool_choice": "none"}, True, False),
        ({}, False, False),
    ],
)
def test_when_the_prompt_shows_tools(tool_backend, prompts, options, tool_calls, shown):
    run(tool_backend, "Add 3 and 4.", {"tools": {"add": ADD}, **options}, tool_calls=tool_calls)
    assert ("system\nadd " in prompts[0]) is shown


def test_a_tool_of_another_name_cannot_be_chosen(tool_backend):
    with pytest.raises(ConfigError, match=r"tool_choice='subtract' is none of the tools \['add'\]"):
        run(tool_backend, "Add.", {"tools": [ADD], "tool_choice": "subtract"}, tool_calls=True)


def test_a_call_of_no_tool_is_none(tool_backend, scripted):
    scripted(CALL.replace("add", "launch"))
    assert run(tool_backend, "Go.", {"tools": [ADD]}, tool_calls=True).tool_calls is None


@pytest.mark.parametrize(("value", "empty"), [(True, False), (False, True), (None, False), ("low", False)])
def test_thinking_is_the_templates_variable(tool_backend, prompts, value, empty):
    run(tool_backend, "Hello.", {ModelOption.THINKING: value})
    assert prompts[0].endswith("<think></think>") is empty


def test_thinking_is_told_apart_from_the_answer(tool_backend, scripted):
    scripted("<think>\nHm.\n</think>\n\nYes.")
    thunk = run(tool_backend, "Hello.", {ModelOption.THINKING: True})
    assert (thunk.thinking, thunk.value) == ("Hm.", "Yes.")


def test_a_model_without_thinking_keeps_its_text(backend, scripted):
    scripted("<think>Hm.</think>Yes.")
    thunk = run(backend, "Hello.")
    assert (thunk.thinking, thunk.value) == (None, "<think>Hm.</think>Yes.")


def test_variables_of_the_template_are_options(tool_backend, backend, prompts):
    run(tool_backend, "Hello.", {"mood": "cheerful"})
    assert prompts[0].endswith("cheerful")
    with pytest.raises(ConfigError, match="mood"):
        run(backend, "Hello.", {"mood": "cheerful"})


def test_raw_texts_run_in_one_batch(backend, engine):
    texts = [f"Text {i}" for i in range(8)]

    async def go(texts):
        return await backend.generate_from_raw([CBlock(t) for t in texts], ChatContext())

    alone = [asyncio.run(go([text]))[0].value for text in texts]
    before = engine.stats().steps
    thunks = asyncio.run(go(texts))
    assert engine.stats().steps - before == 12  # the prompts' step gives the first of twelve tokens
    assert [thunk.value for thunk in thunks] == alone
    assert all(t.is_computed() and t.generation.usage["completion_tokens"] <= 12 for t in thunks)
    assert asyncio.run(go([])) == []


def test_raw_texts_take_a_format(backend):
    async def go():
        return await backend.generate_from_raw(
            [CBlock("A person: "), CBlock("Another: ")], ChatContext(), format=Person, model_options={"max_tokens": 200}
        )

    for thunk in asyncio.run(go()):
        Person.model_validate_json(thunk.value)


def test_one_raw_text_that_is_too_long_runs_none(backend, engine):
    async def go():
        await backend.generate_from_raw([CBlock("short"), CBlock("long " * 3000)], ChatContext())

    with pytest.raises(RequestError, match="2048"):
        asyncio.run(go())
    assert engine.stats().requests == 0


def test_raw_texts_carry_no_tools(backend, caplog):
    async def go():
        return await backend.generate_from_raw([CBlock("x")], ChatContext(), tool_calls=True)

    with caplog.at_level(logging.WARNING, logger="mellea"):
        asyncio.run(go())
    assert "tool_calls" in caplog.text


PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def test_images_are_refused_wherever_they_are(backend, engine):
    picture = Message("user", "What is this?", images=[ImageBlock(PIXEL)])
    session = MelleaSession(backend, ctx=ChatContext().add(picture))
    with pytest.raises(AlorakitError, match="carries images"):
        session.chat("And now?")
    with pytest.raises(AlorakitError, match="carries images"):
        run(backend, picture)
    with pytest.raises(AlorakitError, match="carries images"):
        MelleaSession(backend, ctx=ChatContext()).instruct("What is this?", images=[ImageBlock(PIXEL)], strategy=None)
    assert engine.stats().requests == 0


def test_a_context_that_is_no_chat_is_refused(backend, engine):
    class Tree(ChatContext):
        def view_for_generation(self):
            return None

    class Odd(ChatContext):
        _is_chat_context = False

    for context in (Tree(), Odd()):
        with pytest.raises(RequestError, match="use ChatContext"):
            asyncio.run(backend.generate_from_context(CBlock("x"), context))
    assert engine.stats().requests == 0
