"""The session of ``m alora chat`` on a tiny engine: what is kept, what is reused, what Ctrl-C leaves."""

import os
import signal
from collections.abc import Iterator

import pytest

from alorakit import Engine, SamplingParams
from alorakit.bindings.cli.chat_session import INTERRUPTED, ChatSession
from alorakit.engine.errors import AlorakitError, CheckError, RequestError

PARAMS = SamplingParams(max_tokens=6)


def silent(text: str) -> None:
    """Show nothing."""


@pytest.fixture
def chat(engine: Engine) -> ChatSession:
    return ChatSession(engine, PARAMS)


def test_every_turn_reuses_all_that_was_computed(chat: ChatSession) -> None:
    past = 0
    for number in range(3):
        turn = chat.ask(f"Does pump {number} vibrate?", silent)
        assert turn.usage is not None
        # The last token that was written has been read by nobody yet.
        assert turn.usage.cached_tokens == past
        past = turn.usage.prompt_tokens + len(turn.token_ids) - 1
    assert chat.engine.stats().splice_fallbacks == 0
    assert [message["role"] for message in chat.messages] == ["user", "assistant"] * 3


def test_pieces_are_the_answer(chat: ChatSession) -> None:
    pieces: list[str] = []
    turn = chat.ask("Hi", pieces.append)
    assert "".join(pieces) == turn.text == chat.messages[-1]["content"]


def test_a_check_reuses_the_chat_and_leaves_it_alone(chat: ChatSession) -> None:
    turn = chat.ask("The pump vibrates.", silent)
    assert turn.usage is not None
    before = list(chat.messages)
    info, verdict = chat.check("parts", None)
    assert (info.name, set(verdict.probabilities)) == ("parts", {"rod", "pump", "none"})
    assert verdict.usage.cached_tokens >= turn.usage.prompt_tokens + len(turn.token_ids) - 1
    assert verdict.passed == (verdict.label != "none")
    assert chat.check("checker", "It must be short.")[1].passed is not None
    assert chat.messages == before


def test_what_cannot_be_checked(engine: Engine) -> None:
    chat = ChatSession(engine, PARAMS)
    with pytest.raises(CheckError, match="nothing to check"):
        chat.check("parts", None)
    chat.ask("Hi", silent)
    with pytest.raises(CheckError, match=r"can all check.*/check NAME"):
        chat.check(None, None)
    for name in list(engine.adapters):
        engine.remove_adapter(name)
    with pytest.raises(CheckError, match="no adapter is loaded"):
        chat.check(None, None)


def test_undo_and_retry(chat: ChatSession) -> None:
    for act in (chat.undo, lambda: chat.retry(silent)):
        with pytest.raises(RequestError, match="nothing was said yet"):
            act()
    chat.ask("one", silent)
    first = list(chat.messages)
    turn = chat.ask("two", silent)
    again = chat.retry(silent, temperature=5.0)
    assert again.usage is not None and turn.usage is not None
    # All but the prompt's last token, which gives the first logits, has been read.
    assert again.usage.cached_tokens == again.usage.prompt_tokens - 1 == turn.usage.prompt_tokens - 1
    assert chat.messages[-1]["content"] == again.text and len(chat.messages) == 4
    assert chat.undo() == "two"
    assert chat.messages == first
    with pytest.raises(RequestError, match="temperature"):
        chat.retry(silent, temperature=-1.0)
    assert chat.messages == first


@pytest.fixture
def default_interrupts() -> Iterator[None]:
    """As at a terminal; a shell's background jobs are born with Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("default_interrupts")
@pytest.mark.parametrize("how", ["signal", "exception"])
def test_an_interrupted_answer_is_kept(chat: ChatSession, how: str) -> None:
    chat.params = SamplingParams(max_tokens=200, ignore_eos=True)
    seen: list[str] = []

    def show(text: str) -> None:
        seen.append(text)
        if len(seen) == 5:
            if how == "exception":
                raise KeyboardInterrupt
            os.kill(os.getpid(), signal.SIGINT)

    turn = chat.ask("Tell a story.", show)
    assert turn.finish_reason == INTERRUPTED and 5 <= len(turn.token_ids) < 200
    assert chat.messages[-1]["content"] == turn.text == "".join(seen)
    chat.engine.check_integrity()
    chat.params = PARAMS
    after = chat.ask("And?", silent)
    assert after.usage is not None and after.usage.cached_tokens > len(turn.token_ids)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_message_that_cannot_be_answered_leaves_the_chat(chat: ChatSession) -> None:
    chat.ask("Hi", silent)
    before = list(chat.messages)
    with pytest.raises(RequestError, match="context window"):
        chat.ask("x " * 3000, silent)
    assert chat.messages == before


def test_an_adapter_answers_in_its_own_layout(chat: ChatSession) -> None:
    chat.choose("parts")
    turn = chat.ask("The pump vibrates.", silent)
    assert turn.adapter == "parts"
    asked = chat.engine.tokenizer.render([{"role": "user", "content": "The pump vibrates."}])
    [wanted] = chat.engine.generate([[*asked, 301, 17, 302]], PARAMS, "parts")
    assert turn.token_ids == wanted.token_ids
    with pytest.raises(AlorakitError, match="no adapter is called 'gone'; loaded: checker, parts"):
        chat.choose("gone")


def test_a_model_without_a_template(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine.tokenizer, "_template", None)
    with pytest.raises(RequestError, match="no chat template"):
        ChatSession(engine, PARAMS)
