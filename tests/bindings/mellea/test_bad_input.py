"""What cannot be used is a typed error that says what to do, and leaves nothing behind."""

import asyncio

import pytest
from mellea import MelleaSession
from mellea.backends.adapters import AdapterType
from mellea.backends.model_ids import ModelIdentifier
from mellea.core import CBlock
from mellea.stdlib.components import Intrinsic, Message
from mellea.stdlib.context import ChatContext, SimpleContext
from mellea.stdlib.requirements import ALoraRequirement, req

from alorakit.engine.engine import Engine
from alorakit.engine.errors import (
    AdapterError,
    AdapterNotFoundError,
    AlorakitError,
    CheckError,
    ClosedError,
    ConfigError,
    RequestError,
)
from tests.bindings.mellea.conftest import INVOCATION, OPENING, YES_NO


def changed(**fields):
    return {key: value for key, value in (YES_NO | fields).items() if value is not ...}


BROKEN = {
    "unknown key": (changed(temperature=0.3), "unexpected top-level field 'temperature'"),
    "missing key": (changed(transformations=...), "missing required field 'transformations'"),
    "a date that is none": ("name: 2024-13-45", "cannot be read as YAML"),
    "nested too deep": ("a: " + "[" * 5000, "cannot be read as YAML"),
    "schema is no JSON": (changed(response_format="{type: string}"), "Error parsing JSON"),
    "schema is a list": (changed(response_format="[1]"), "must be a JSON schema"),
    "unknown rule": (changed(transformations=[{"type": "shout", "input_path": []}]), "shout"),
    "rule without a path": (changed(transformations=[{"type": "nest", "field_name": "x"}]), "input_path"),
    "rule without its field": (changed(transformations=[{"type": "nest", "input_path": []}]), "field_name"),
    "rule with a field too many": (
        changed(transformations=[{"type": "nest", "input_path": [], "field_name": "x", "deep": 1}]), "deep",
    ),
    "rules are text": (changed(transformations="nest"), "correct the file"),
    "sentences of nowhere": (changed(sentence_boundaries={"title": "t"}), "Unexpected location"),
    "documents as songs": (changed(docs_as_message="song"), "docs_as_message"),
    "no mapping": ("- model\n- response_format\n", "must be a mapping"),
    "a number": ("3\n", "must be a mapping"),
    "empty": ("", "must be a mapping"),
    "no YAML": ("model: [1\n", "cannot be read as YAML"),
    "not text": ("\x00", "cannot be read as YAML"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_an_io_yaml_that_is_broken(name, backend, new_adapter):
    io, message = BROKEN[name]
    folder = new_adapter("fn", OPENING, io)
    with pytest.raises(AdapterError, match=message) as raised:
        backend.add_adapter(folder)
    assert str(folder / "io.yaml") in str(raised.value) and "\n" not in str(raised.value)
    assert backend.list_adapters() == [] and not backend.engine.adapters and not backend._added_adapters
    (folder / "io.yaml").unlink()
    backend.add_adapter(folder)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("adapter_config.json", "{"),
        ("adapter_config.json", '{"peft_type": "IA3"}'),
        ("adapter_model.safetensors", ""),
        ("alorakit.json", '{"colour": 1}'),
    ],
)
def test_an_adapter_folder_that_is_broken(file, text, backend, new_labels):
    folder = new_labels("fn")
    (folder / file).write_text(text, encoding="utf-8")
    with pytest.raises(AdapterError, match=file.split(".")[0]):
        backend.add_adapter(folder)
    assert backend.list_adapters() == [] and not backend.engine.adapters and not backend._composed_adapters


@pytest.mark.parametrize("given", ["no/such/folder/here", "nowhere", "", "~nobody/adapter"])
def test_an_adapter_that_is_nowhere(given, backend):
    with pytest.raises(AdapterError):
        backend.add_adapter(given)
    assert backend.list_adapters() == []


def asked(backend, name, context=None, options=None, **arguments):
    action = Intrinsic(name, intrinsic_kwargs=arguments, adapter_types=(AdapterType.ALORA, AdapterType.LORA))
    context = ChatContext().add(Message("user", "The pump leaks.")) if context is None else context
    return MelleaSession(backend, ctx=context).act(action, strategy=None, model_options=options)


def test_an_instruction_that_lacks_its_argument(backend, checker):
    backend.add_adapter(checker)
    with pytest.raises(RequestError, match=r"'requirement'.*give the missing argument"):
        asked(backend, "checker")
    assert backend.engine.stats().requests == 0


def test_a_function_without_an_adapter(backend, checker):
    backend.add_adapter(checker)
    with pytest.raises(AdapterNotFoundError, match=r"'other'.*checker_alora.*add_adapter"):
        asked(backend, "other")


def test_a_function_of_an_adapter_without_io_yaml(backend, new_adapter):
    backend.add_adapter(new_adapter("bare"))
    with pytest.raises(CheckError, match=r"no io\.yaml.*write one"):
        asked(backend, "bare")


def test_a_function_over_nothing(backend, new_adapter):
    io = changed(instruction=None, response_format='{"type": "boolean"}', transformations=None)
    backend.add_adapter(new_adapter("fn", OPENING, io))
    with pytest.raises(AlorakitError):
        asked(backend, "fn", SimpleContext())
    io = io | {"sentence_boundaries": {"last_message": "i"}}
    backend.add_adapter(new_adapter("marks", OPENING, io))
    with pytest.raises(RequestError, match="cannot be rewritten"):
        asked(backend, "marks", SimpleContext())


@pytest.mark.parametrize("key", ["messages", "documents", "add_generation_prompt"])
def test_an_io_yaml_that_overrides_the_chat(backend, new_adapter, key):
    parameters = {"extra_body": {"chat_template_kwargs": {key: []}}}
    backend.add_adapter(new_adapter("fn", OPENING, changed(parameters=parameters)))
    with pytest.raises(RequestError, match=key):
        asked(backend, "fn", requirement="x")


def test_a_schema_that_no_text_obeys(backend, new_adapter):
    backend.add_adapter(new_adapter("fn", OPENING, changed(response_format='{"type": "strange"}')))
    with pytest.raises(RequestError, match="structured"):
        asked(backend, "fn", requirement="x")
    assert backend.engine.stats().requests == 0


def test_an_invocation_that_is_not_there_says_where_to_put_it(backend, new_adapter):
    backend.add_adapter(new_adapter("fn", INVOCATION, YES_NO))
    with pytest.raises(RequestError, match=r"check_requirement.*not in the prompt"):
        asked(backend, "fn", requirement="x")


@pytest.mark.parametrize("kind", [req, ALoraRequirement], ids=["plain", "alora"])
def test_a_requirement_that_does_not_say_what_passes(backend, labels, kind):
    backend.add_adapter(labels)
    session = MelleaSession(backend, ctx=ChatContext())
    session.chat("The pump leaks.")
    before = backend.engine.stats().requests
    with pytest.raises(CheckError, match=r"must be 'X'"):
        session.validate(kind("It is nice."))
    assert backend.engine.stats().requests == before


def test_a_requirement_of_a_trained_adapter_needs_words(backend, new_labels):
    backend.add_adapter(new_labels("asks", ("yes", "no"), requirements=True))
    session = MelleaSession(backend, ctx=ChatContext())
    session.chat("The pump leaks.")
    with pytest.raises(CheckError, match="trained with requirements"):
        session.validate(req(""))


def test_a_check_of_nothing(backend, labels):
    backend.add_adapter(labels)

    async def run():
        await backend.generate_from_context(req("It must be 'overheating'."), SimpleContext())

    with pytest.raises(CheckError, match="holds nothing to judge"):
        asyncio.run(run())


def test_a_session_used_after_close(new_backend, labels):
    backend = new_backend()
    backend.add_adapter(labels)
    session = MelleaSession(backend, ctx=ChatContext())
    session.chat("The pump leaks.")
    backend.close()
    for call in (
        lambda: session.chat("Hello?"),
        lambda: session.instruct("Hello?", strategy=None),
        lambda: session.validate(req("It must be 'overheating'.")),
        lambda: asyncio.run(backend.generate_from_raw([CBlock("x")], ChatContext())),
        lambda: backend.add_adapter(labels.parent),
    ):
        with pytest.raises((ClosedError, AdapterError), match=r"closed|adapter_config"):
            call()


def test_a_chat_that_is_too_long(backend):
    session = MelleaSession(backend, ctx=ChatContext())
    with pytest.raises(RequestError, match="2048"):
        session.chat("word " * 2000)
    assert session.chat("Hello.") is not None


def test_backends_that_cannot_be_made(base):
    from alorakit.bindings.mellea import MelleaBackend

    engine = Engine.from_pretrained(base, dtype="float32")
    for arguments, error in (
        ({}, "model_id or a ready engine"),
        ({"engine": engine, "dtype": "float32"}, "configure a new engine"),
        ({"engine": "fast"}, "is no engine"),
        ({"model_id": 3}, "must be a Hub id"),
        ({"model_id": ModelIdentifier(ollama_name="x")}, "no name on the Hub"),
        ({"model_id": "no/such/folder/here"}, "no/such/folder/here"),
    ):
        with pytest.raises(AlorakitError, match=error) as raised:
            MelleaBackend(**arguments)
        assert isinstance(raised.value, ConfigError | OSError)
    engine.close()


def test_an_answer_that_is_still_being_written(backend, checker):
    backend.add_adapter(checker)
    action = Intrinsic("checker", intrinsic_kwargs={"requirement": "x"}, adapter_types=(AdapterType.ALORA,))

    async def run():
        thunk, context = await backend.generate_from_context(CBlock("Hello."), ChatContext())
        for next_action in (CBlock("And then?"), action):
            with pytest.raises(RequestError, match="await it first"):
                await backend.generate_from_context(next_action, context)
        await thunk.avalue()
        later, _ = await backend.generate_from_context(CBlock("And then?"), context)
        assert await later.avalue() is not None

    asyncio.run(run())
