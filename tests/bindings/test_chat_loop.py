"""The loop of ``m alora chat``: commands, what is typed and what is shown, without a terminal."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from alorakit import Engine, SamplingParams
from alorakit.bindings.cli.chat_input import Entry, LineEditor, paths_like, read_entry
from alorakit.bindings.cli.chat_loop import COMMANDS, HELP, ChatLoop
from alorakit.bindings.cli.chat_session import INTERRUPTED, ChatSession, Turn
from alorakit.bindings.cli.chat_view import JsonView, TextView, counter
from alorakit.bindings.cli.main import m_app
from alorakit.engine.request import Timing, Usage


def silent(text: str) -> None:
    """Show nothing."""


@pytest.fixture
def chat(engine: Engine) -> ChatSession:
    return ChatSession(engine, SamplingParams(max_tokens=6))


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


def test_help_is_wrapped_between_words(
    chat: ChatSession, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    ChatLoop(chat, TextView(), lines("/help")).run()
    shown = capsys.readouterr().out
    assert shown.split() == " ".join(HELP).split()
    assert max(map(len, HELP)) > 60 >= max(map(len, shown.splitlines()))


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


@pytest.mark.parametrize("resumes", [True, False])
def test_an_interrupted_answer_ends_a_loop_that_nobody_types_into(
    chat: ChatSession, capsys: pytest.CaptureFixture[str], resumes: bool
) -> None:
    class Impatient(TextView):
        def piece(self, text: str) -> None:
            raise KeyboardInterrupt

    loop = ChatLoop(chat, Impatient(), lines("Hi", "/adapter"), resumes=resumes)
    if resumes:
        loop.run()
    else:
        with pytest.raises(KeyboardInterrupt):
            loop.run()
    shown = capsys.readouterr()
    assert " token" in shown.err and "stopped" in shown.err
    assert ("the base model answers" in shown.out) == resumes
    assert [message["role"] for message in chat.messages] == ["user", "assistant"]


def test_what_the_system_refuses_does_not_end_the_chat(
    chat: ChatSession, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("alorakit.bindings.cli.chat_loop.save_chat", full)
    ChatLoop(chat, TextView(), lines("/save x", "/adapter")).run()
    shown = capsys.readouterr()
    assert "No space left" in shown.err and "the base model answers" in shown.out


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


def test_history_and_completion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readline = pytest.importorskip("readline")
    file = tmp_path / "history"
    file.write_text("before\n")
    monkeypatch.setattr(readline, "get_line_buffer", lambda: "/ad and more")
    monkeypatch.setattr(readline, "get_endidx", lambda: 3)
    asked: list[str] = []

    def words(line: str) -> list[str]:
        asked.append(line)
        return ["/undo", "/adapters", "/adapter"]

    readline.clear_history()
    with LineEditor(words, file):
        complete = readline.get_completer()
        assert [complete("/ad", state) for state in range(3)] == ["/adapter", "/adapters", None]
        readline.add_history("now")
    assert asked == ["/ad"] and readline.get_completer() is None
    assert file.read_text().split() == ["before", "now"] and file.stat().st_mode & 0o777 == 0o600
    readline.clear_history()


def test_without_readline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("alorakit.bindings.cli.chat_input._readline", lambda: None)
    with LineEditor(lambda line: [], tmp_path / "history"):
        pass
    assert not (tmp_path / "history").exists()


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
