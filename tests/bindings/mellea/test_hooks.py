"""Mellea's plugins hear of adapter functions; the part of Mellea that runs plugins is an extra, and is played here."""

import asyncio
import types

import pytest
from mellea import MelleaSession
from mellea.backends.adapters import AdapterType
from mellea.plugins import HookType
from mellea.plugins.hooks import adapter_function
from mellea.stdlib.components import Intrinsic, Message
from mellea.stdlib.context import ChatContext
from mellea.stdlib.requirements import req

from alorakit.bindings.mellea import hooks
from alorakit.engine.errors import CheckError, StepError

CHAT = ChatContext().add(Message("user", "The pump leaks."))


def ask(backend, name="checker"):
    action = Intrinsic(name, intrinsic_kwargs={"requirement": "It is short."}, adapter_types=(AdapterType.ALORA,))
    return MelleaSession(backend, ctx=CHAT).act(action, strategy=None)


@pytest.fixture
def heard(monkeypatch):
    """Payloads that a plugin for finished adapter functions is given."""
    seen = []

    async def invoke(kind, payload):
        assert kind is HookType.ADAPTER_FUNCTION_INVOCATION_COMPLETE
        seen.append(payload)

    monkeypatch.setattr(hooks, "has_plugins", lambda kind: kind is HookType.ADAPTER_FUNCTION_INVOCATION_COMPLETE)
    monkeypatch.setattr(hooks, "invoke_hook", invoke)
    monkeypatch.setattr(adapter_function, "AdapterFunctionInvocationCompletePayload", types.SimpleNamespace)
    return seen


def test_a_function_that_succeeds(backend, checker, heard):
    backend.add_adapter(checker)
    ask(backend)
    [payload] = heard
    assert vars(payload) == {
        "name": "checker", "revision": None, "binding_type": "local_file", "adapter_type": "alora",
        "outcome": "success", "error": None,
    }  # fmt: skip


def test_the_payload_has_the_fields_that_mellea_knows():
    payload = adapter_function.AdapterFunctionInvocationCompletePayload
    known = {name for kind in payload.__mro__ for name in getattr(kind, "__annotations__", {})}
    assert {"name", "revision", "binding_type", "adapter_type", "outcome", "error"} <= known


def test_a_check_is_one_and_a_chat_is_none(backend, labels, heard):
    backend.add_adapter(labels)
    session = MelleaSession(backend, ctx=ChatContext())
    session.chat("The pump leaks.")
    assert heard == []
    session.validate(req("It must be 'overheating'."))
    assert [(p.name, p.outcome) for p in heard] == [("my_adapter", "success")]


def test_a_function_that_fails(backend, checker, heard, scripted, monkeypatch):
    backend.add_adapter(checker)

    def broken(batch):
        raise ZeroDivisionError("broken")

    monkeypatch.setattr(backend.engine.loop, "_run", broken)
    with pytest.raises(StepError):
        ask(backend)
    scripted("no JSON")
    with pytest.raises(CheckError):
        ask(backend)
    assert [p.outcome for p in heard] == ["error", "schema_error"]
    assert isinstance(heard[0].error, StepError)


def test_a_plugin_that_fails_changes_nothing(backend, checker, heard, monkeypatch, caplog):
    async def fails(kind, payload):
        raise KeyError("plugin")

    monkeypatch.setattr(hooks, "invoke_hook", fails)
    backend.add_adapter(checker)
    assert ask(backend).value
    assert "a plugin failed on checker" in caplog.text


def test_without_plugins_nothing_is_told(backend, checker, heard, monkeypatch):
    monkeypatch.setattr(hooks, "has_plugins", lambda kind: False)
    backend.add_adapter(checker)
    ask(backend)
    assert heard == []


def test_an_adapter_that_was_removed_meanwhile_changes_nothing(heard):
    async def answer():
        return "yes"

    assert asyncio.run(hooks.reported(None, answer())) == "yes"
    assert heard == []
