"""``m alora chat``: the session's ids and the loop's commands, on a tiny engine and without a terminal."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from alorakit import Engine, SamplingParams
from alorakit.bindings.cli.chat_input import Entry, paths_like, read_entry
from alorakit.bindings.cli.chat_loop import COMMANDS, ChatLoop
from alorakit.bindings.cli.chat_session import INTERRUPTED, ChatSession, Turn
from alorakit.bindings.cli.chat_view import JsonView, TextView, counter
from alorakit.bindings.cli.main import m_app
from alorakit.engine.errors import AlorakitError, CheckError, RequestError
from alorakit.engine.request import Timing, Usage

PARAMS = SamplingParams(max_tokens=6)


def silent(text: str) -> None:
    """Show nothing."""


@pytest.fixture
def chat(engine: Engine) -> ChatSession:
    return ChatSession(engine, PARAMS)


def lines(*given: str) -> Callable[[str], str | None]:
    """A reader of these lines."""
    left: Iterator[str] = iter(given)
    return lambda prompt: next(left, None)


@pytest.fixture
def events(chat: ChatSession, capsys: pytest.CaptureFixture[str]) -> Callable[..., list[dict[str, Any]]]:
    """What a loop over some lines tells a program, without the pieces of answers."""

    def run(*given: str) -> list[dict[str, Any]]:
        capsys.readouterr()
        ChatLoop(chat, JsonView(), lines(*given)).run()
        found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        return [event for event in found if event["event"] != "piece"]

    return run


# -- the session


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
    with pytest.raises(CheckError, match="can all check"):
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


# -- the loop


def test_commands(events: Callable[..., list[dict[str, Any]]], served_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "chat.json"
    found = events(
        "/system Be short.", "Hi", "/check parts", "/adapter parts", "/adapter none", "/adapters",
        f"/add more={served_folder / 'parts'}", f"/save {file}", "/retry 2", "/undo", f"/load {file}", "/help",
        "/reset", "", "/quit", "never read",
    )  # fmt: skip
    kinds = [event["event"] for event in found]
    assert kinds == ["system", "answer", "check", "adapter", "adapter", "adapters", "add", "save", "answer", "undo",
                     "load", "help", "reset"]  # fmt: skip
    assert found[1]["usage"]["completion_tokens"] == len(found[1]["token_ids"]) == 6
    assert (found[2]["adapter"], set(found[2]["probabilities"])) == ("parts", {"rod", "pump", "none"})
    assert (found[3]["adapter"], found[4]["adapter"]) == ("parts", None)
    assert {adapter["name"]: adapter["labels"] for adapter in found[5]["adapters"]}["checker"] == ["yes", "no"]
    saved = json.loads(file.read_text(encoding="utf-8"))
    assert [message["role"] for message in saved] == ["system", "user", "assistant"]
    assert saved[2]["token_ids"] == found[1]["token_ids"]
    assert (found[9]["text"], found[10]["messages"]) == ("Hi", 2)


def test_a_loaded_chat_goes_on_from_the_cache(
    chat: ChatSession, events: Callable[..., list[dict[str, Any]]], tmp_path: Path
) -> None:
    file = tmp_path / "chat.json"
    first, _ = events("Hi", f"/save {file}")
    _, _, second = events("/reset", f"/load {file}", "And?")
    assert second["usage"]["cached_tokens"] == first["usage"]["prompt_tokens"] + len(first["token_ids"]) - 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/nope", "no command /nope"),
        ("/adapters now", "takes nothing behind it"),
        ("/retry warm", "not a number"),
        ("/save", "needs a file"),
        ("/save /proc/no/such.json", "cannot be written"),
        ("/load /no/such.json", "not readable as JSON"),
        ("/add", "neither of them empty"),
        ("/add x=/no/such", "is not a folder"),
        ("/check", "nothing to check"),
        ("/undo", "nothing was said yet"),
    ],
)
def test_what_cannot_be_done_is_told_and_counted(
    chat: ChatSession, capsys: pytest.CaptureFixture[str], line: str, message: str
) -> None:
    loop = ChatLoop(chat, TextView(), lines(line, "/adapter"))
    loop.run()
    out, err = capsys.readouterr()
    assert (loop.failures, out) == (1, "the base model answers\n")
    assert err.startswith("error: ") and message in err and err.count("\n") == 1
    assert chat.messages == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "no list"),
        ("[", "not readable"),
        ('[{"role": "user"}]', "message 1"),
        ('[{"role": "cat", "content": "x"}]', "message 1"),
        ('[{"role": "user", "content": "x"}, {"role": "system", "content": "y"}]', "not the first"),
    ],
)
def test_a_file_that_is_no_chat(
    chat: ChatSession, events: Callable[..., list[dict[str, Any]]], tmp_path: Path, text: str, message: str
) -> None:
    chat.ask("Hi", silent)
    before = list(chat.messages)
    (tmp_path / "c.json").write_text(text)
    [event] = events(f"/load {tmp_path / 'c.json'}")
    assert event["event"] == "error" and message in event["message"]
    assert chat.messages == before


def test_ids_of_another_model_are_not_used(
    chat: ChatSession, events: Callable[..., list[dict[str, Any]]], tmp_path: Path
) -> None:
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello", "token_ids": [10**9]},
        {"role": "user", "content": "So?"},
    ]
    (tmp_path / "c.json").write_text(json.dumps(messages))
    loaded, answer = events(f"/load {tmp_path / 'c.json'}", "/retry")
    assert (loaded["messages"], answer["event"]) == (3, "answer")
    assert "token_ids" not in chat.messages[1] and len(chat.messages) == 4


def test_slashes_and_quotes(chat: ChatSession, events: Callable[..., list[dict[str, Any]]]) -> None:
    events("//etc", '"""/quit"""', '"""', "one", "two", '"""', "a\\", "b")
    said = [message["content"] for message in chat.messages if message["role"] == "user"]
    assert said == ["/etc", "/quit", "one\ntwo", "a\nb"]


@pytest.mark.parametrize("resumes", [True, False])
def test_an_interrupt_while_reading(chat: ChatSession, capsys: pytest.CaptureFixture[str], resumes: bool) -> None:
    def read(prompt: str) -> str | None:
        if not asked:
            asked.append(prompt)
            raise KeyboardInterrupt
        return None

    asked: list[str] = []
    loop = ChatLoop(chat, TextView(), read, resumes=resumes)
    if resumes:
        loop.run()
        assert "Ctrl-D leaves" in capsys.readouterr().out
    else:
        with pytest.raises(KeyboardInterrupt):
            loop.run()


def test_words_to_complete(chat: ChatSession, tmp_path: Path) -> None:
    loop = ChatLoop(chat, TextView(), lines())
    (tmp_path / "some").mkdir()
    (tmp_path / "sum.json").touch()
    assert loop.words("/a") == [f"/{name}" for name in COMMANDS]
    assert loop.words("/adapter ") == ["parts", "checker", "none"]
    assert loop.words("/check pa") == ["parts", "checker"]
    assert sorted(loop.words(f"/load {tmp_path}/s")) == [f"{tmp_path}/some/", f"{tmp_path}/sum.json"]
    assert loop.words(f"/add x={tmp_path}/so") == [f"x={tmp_path}/some/"]
    assert loop.words("hello") == loop.words("/undo ") == paths_like("~nobody-of-that-name/x") == []


# -- input and output


def test_entries() -> None:
    def entries(*given: str) -> list[Entry]:
        read, found = lines(*given), []
        while (entry := read_entry(read, "> ")) is not None:
            found.append(entry)
        return found

    assert entries("a", "") == [Entry("a"), Entry("")]
    assert entries("a\\", "b\\", "c", "d") == [Entry("a\nb\nc"), Entry("d")]
    assert entries("a\\") == [Entry("a")]
    assert entries('"""a', "  b", 'c"""', "d") == [Entry("a\n  b\nc", True), Entry("d")]
    assert entries('"""', "never closed") == [Entry("never closed", True)]


def test_the_counter() -> None:
    usage, timing = Usage(418, 412, 31), Timing(0.0, 0.5, 1.75)
    turn = Turn("x", [1] * 31, "stop", None, usage, timing)
    assert counter(turn) == "412 of 418 prompt tokens reused · 31 tokens · 24 tok/s"
    assert counter(Turn("x", [1], INTERRUPTED, None)) == "1 token · stopped"


def test_the_command(served_folder: Path) -> None:
    args = ["alora", "chat", str(served_folder / "model"), "--adapter", str(served_folder / "parts"), "--max-tokens",
            "4", "--device", "cpu", "--dtype", "float32"]  # fmt: skip
    result = CliRunner().invoke(m_app(), args, input="Hi\n/check\n")
    assert result.exit_code == 0, result.output
    answer, label = result.stdout.splitlines()[0], result.stdout.splitlines()[-4]
    assert answer and label.startswith("parts: ")
    assert "prompt tokens reused · 4 tokens" in result.stderr and "\x1b[" not in result.output
    result = CliRunner().invoke(m_app(), [*args, "--json"], input="Hi\n/nope\n")
    assert result.exit_code == 2
    assert [json.loads(line)["event"] for line in result.stdout.splitlines()][-2:] == ["answer", "error"]
