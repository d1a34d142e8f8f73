"""Outputs that are still being written, and options of how they are."""

import asyncio
import json
from typing import Any

import pytest

from alorakit.bindings.session import (
    ChatContext,
    MelleaSession,
    Message,
    ModelOption,
    ModelOutputThunk,
    get_session,
    start_session,
)
from alorakit.engine.errors import AlorakitError, ConfigError, NumericsError, RequestError, StreamError

STREAM = {ModelOption.STREAM: True}


def test_pieces_come_as_they_are_written(fake_engine: Any) -> None:
    m = fake_engine(["abc"]).session()

    async def main() -> None:
        output = await m.aact(Message("user", "x"), model_options=STREAM)
        pieces = [piece async for piece in output]
        assert "".join(pieces) == output.value == "abc"
        assert [piece async for piece in output] == []
        assert output.token_ids == (97, 98, 99, 0) and output.finish_reason == "stop"
        assert output.parsed_repr == Message("assistant", "abc", token_ids=output.token_ids)
        assert m.ctx.last_output() is output and repr(output) == "ModelOutputThunk('abc')"

    asyncio.run(main())


def test_several_may_wait_for_one_output(fake_engine: Any) -> None:
    m = fake_engine(["abc"]).session()

    async def main() -> None:
        output = await m.ainstruct("x", strategy=None, model_options=STREAM)
        assert await asyncio.gather(*(output.avalue() for _ in range(3))) == ["abc"] * 3
        assert "".join([piece async for piece in output]) == "abc"  # who has not read it yet still can

    asyncio.run(main())


def test_cancelling_keeps_what_there_is(fake_engine: Any) -> None:
    engine = fake_engine(["abcdef", "next"])
    engine.pause = "c"
    m = engine.session()

    async def main() -> None:
        output = await m.aact(Message("user", "x"), model_options=STREAM)
        text = ""
        while text != "abc":
            text += await output.astream()
        await output.cancel_generation(ValueError("why"))
        await output.cancel_generation()
        assert (output.value, output.cancelled, output.parsed_repr, output.usage) == ("abc", True, None, None)
        assert m.backend.running().given_up == 1
        await m.achat("y")
        assert engine.prompts[1] == "<user>x<assistant>abc<user>y<assistant>"

    asyncio.run(main())


def test_a_failed_output_fails_whoever_needs_it(fake_engine: Any) -> None:
    m = fake_engine(["FAIL", "x"]).session()

    async def main() -> None:
        output = await m.aact(Message("user", "x"))
        for _ in range(2):
            with pytest.raises(NumericsError):
                await output.avalue()
        with pytest.raises(NumericsError):
            await m.achat("and then?")
        assert isinstance(output.error, NumericsError) and not output.is_computed()
        assert len(m.ctx.as_list()) == 2

    asyncio.run(main())
    m.reset()
    assert m.chat("x").content == "x"


def test_a_piece_that_does_not_come_times_out(fake_engine: Any) -> None:
    engine = fake_engine(["abc"])
    engine.pause = "b"
    m = engine.session()
    with pytest.raises(TimeoutError):
        m.chat("x", model_options=STREAM | {ModelOption.STREAM_TIMEOUT: 0.05})
    assert m.ctx.is_root_node


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_a_stream_timeout_is_above_zero(fake_engine: Any, seconds: float) -> None:
    with pytest.raises(ConfigError, match=r"stream_timeout=.* must be above 0"):
        fake_engine().session().chat("x", model_options=STREAM | {ModelOption.STREAM_TIMEOUT: seconds})


def test_an_output_without_a_text_cannot_be_read() -> None:
    empty: ModelOutputThunk[Any] = ModelOutputThunk(None)
    for call in (empty.avalue, empty.astream):
        with pytest.raises(StreamError, match="no value and none is being generated"):
            asyncio.run(call())
    asyncio.run(empty.cancel_generation())
    with pytest.raises(StreamError, match="no more to stream"):
        asyncio.run(ModelOutputThunk("x").astream())
    with pytest.raises(RequestError, match="value must be str or None"):
        ModelOutputThunk(5)  # type: ignore[arg-type]


class Person:
    """What a pydantic model looks like from here."""

    @classmethod
    def model_json_schema(cls) -> dict[str, Any]:
        return {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}


def test_a_format_becomes_a_schema(fake_engine: Any) -> None:
    engine = fake_engine([json.dumps({"name": "Ann"})])
    m = engine.session()
    assert m.instruct("Who?", format=Person, strategy=None).value == '{"name": "Ann"}'
    assert engine.params[0].structured == {**Person.model_json_schema(), "additionalProperties": False}
    with pytest.raises(ConfigError, match="has no model_json_schema"):
        m.instruct("Who?", format=dict)


@pytest.mark.parametrize(
    ("thinking", "variables"),
    [
        (None, {}),
        (False, {"thinking": False, "think": False, "enable_thinking": False}),
        ("low", {"reasoning_effort": "low"}),
    ],
)
def test_thinking_is_for_the_chat_template(fake_engine: Any, thinking: Any, variables: dict[str, Any]) -> None:
    engine = fake_engine(["x"])
    engine.session().chat("x", model_options={ModelOption.THINKING: thinking})
    assert engine.tokenizer.variables == variables


def test_start_session_builds_a_backend(monkeypatch: pytest.MonkeyPatch, fake_engine: Any) -> None:
    from alorakit.bindings.session import backend

    loaded: list[Any] = []

    def load(*given: Any) -> Any:
        loaded.append(given)
        return fake_engine(["x"])

    monkeypatch.setattr(backend, "_load", load)
    with start_session(model_id="tiny", context_type="chat", model_options={"seed": 3}, block_size=8) as m:
        assert get_session() is m
        with MelleaSession(m.backend):
            assert get_session() is not m
    assert isinstance(m.ctx, ChatContext) and m.backend.model_options == {"seed": 3}
    assert loaded == [("tiny", {"block_size": 8})]
    m.cleanup()
    with pytest.raises(ConfigError, match="no session is active"):
        get_session()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"backend_name": "ollama"}, "backend_name='ollama' is not a backend of this package"),
        ({"ctx": ChatContext(), "context_type": "chat"}, "exclude each other"),
        ({"context_type": "long"}, "context_type='long' is unknown; use 'simple' or 'chat'"),
        ({"model_id": 5}, "model_id must be str"),
    ],
)
def test_start_session_refuses(given: dict[str, Any], message: str) -> None:
    with pytest.raises(AlorakitError, match=message):
        start_session(**given)
