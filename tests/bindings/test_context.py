"""Contexts are immutable, and know the chat a check reads."""

from typing import Any

import pytest

from alorakit.bindings.session import CBlock, ChatContext, Message, ModelOutputThunk, SimpleContext
from alorakit.engine.errors import ConfigError, RequestError

HI = Message("user", "hi")
BYE = Message("user", "bye")
HELLO: ModelOutputThunk[Any] = ModelOutputThunk("hello", token_ids=(1, 2, 0), prompt=(Message("system", "be kind"), HI))


def test_add_returns_a_new_context() -> None:
    empty = ChatContext()
    grown = empty.add(HI)
    assert empty.as_list() == []
    assert grown.as_list() == [HI]
    assert grown.add(HELLO).as_list() == [HI, HELLO]
    assert grown.as_list() == [HI]


@pytest.mark.parametrize(("last_n", "expected"), [(None, [HI, HELLO, BYE]), (0, []), (1, [BYE]), (9, [HI, HELLO, BYE])])
def test_as_list_of_the_last_parts(last_n: int | None, expected: list[object]) -> None:
    assert ChatContext().add(HI).add(HELLO).add(BYE).as_list(last_n) == expected


def test_last_output_looks_past_messages() -> None:
    assert ChatContext().add(HI).last_output() is None
    assert ChatContext().add(HELLO).add(BYE).last_output() is HELLO
    assert ChatContext().add(HELLO).add(BYE).add(HI).add(BYE).last_output() is None
    assert ChatContext().add(HELLO).add(BYE).add(HI).add(BYE).last_output(4) is HELLO


def test_an_answered_chat_is_the_prompt_and_the_answer() -> None:
    # With the system message that only the options held: it is what the engine read.
    expected = [Message("system", "be kind"), HI, Message("assistant", "hello", token_ids=(1, 2, 0))]
    assert ChatContext().add(HI).add(HELLO).messages() == expected
    assert SimpleContext().add(HI).add(HELLO).messages() == expected
    assert ChatContext(window_size=1).add(HI).add(HELLO).messages() == expected


def test_a_chat_written_by_hand_is_its_parts() -> None:
    by_hand = ModelOutputThunk("hello")
    ctx = ChatContext().add(CBlock("hi")).add(by_hand)
    assert ctx.messages() == [HI, Message("assistant", "hello")]
    assert ctx.add(BYE).messages() == [HI, Message("assistant", "hello"), BYE]


def test_simple_context_forgets_earlier_turns() -> None:
    ctx = SimpleContext().add(HI).add(HELLO).add(BYE)
    assert ctx.view_for_generation() == []
    assert ctx.messages() == [BYE]
    assert ctx.add(ModelOutputThunk("ciao")).messages() == [BYE, Message("assistant", "ciao")]
    assert ctx.as_list() == [HI, HELLO, BYE]


def test_a_window_keeps_the_first_system_messages_and_the_newest_parts() -> None:
    system = Message("system", "be kind")
    ctx = ChatContext(window_size=2).add(system).add(HI).add(HELLO).add(BYE)
    assert ctx.view_for_generation() == [system, HELLO, BYE]
    assert ctx.new_instance().add(HI).add(HI).add(BYE).as_list() == [HI, BYE]
    assert ctx.add(system).add(HI).as_list() == [system, system, HI]
    assert ChatContext(window_size=0).add(system).add(HI).as_list() == [system]


@pytest.mark.parametrize("size", [-1, "a"])
def test_a_window_below_zero_raises(size: int) -> None:
    with pytest.raises(ConfigError, match=r"below 0|window_size must be"):
        ChatContext(window_size=size)


def test_a_bare_string_is_refused() -> None:
    with pytest.raises(RequestError, match="wrap it"):
        ChatContext().add("hi")  # type: ignore[arg-type]


def test_an_unknown_role_is_refused() -> None:
    with pytest.raises(RequestError, match="'wizard'"):
        Message("wizard", "hi")


def test_message_as_dict_carries_ids_only_where_known() -> None:
    assert HI.as_dict() == {"role": "user", "content": "hi"}
    assert HELLO.as_message().as_dict() == {"role": "assistant", "content": "hello", "token_ids": [1, 2, 0]}
    assert (str(HI), str(HELLO), str(CBlock("x"))) == ("hi", "hello", "x")
