"""The loop of ``m alora chat``: messages and commands in, what happens shown; no terminal needed."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill

from alorakit.bindings.cli.adapters import split_name
from alorakit.bindings.cli.chat_file import load_chat, save_chat
from alorakit.bindings.cli.chat_input import Entry, ReadLine, paths_like, read_entry
from alorakit.bindings.cli.chat_session import INTERRUPTED, ChatSession, Turn
from alorakit.bindings.cli.chat_view import View
from alorakit.engine.errors import AlorakitError, RequestError

NONE = "none"


@dataclass(frozen=True)
class Command:
    """A command of the chat.

    Attributes:
        arguments: What comes behind its name.
        help: What it does.
    """

    arguments: str
    help: str


COMMANDS = {
    "adapter": Command("[name|none]", "let an adapter answer, or the base model; alone: say who answers"),
    "check": Command("[name] [requirement]", "check the chat so far: label, probabilities, verdict, tokens reused"),
    "adapters": Command("", "list the adapters"),
    "add": Command("name=DIR", "load an adapter: a folder, or a name of the Hub"),
    "system": Command("[text|none]", "set the system message; alone: show it"),
    "undo": Command("", "take back your last message and its answer"),
    "retry": Command("[temperature]", "answer your last message again, sampled"),
    "save": Command("FILE", "write the chat as JSON"),
    "load": Command("FILE", "go on with a chat that was saved; /retry answers it if its last message is yours"),
    "reset": Command("", "forget the chat, not the system message"),
    "help": Command("", "show this"),
    "quit": Command("", "leave, as Ctrl-D does"),
}
_HELP_AT = 30
HELP = (
    *(f"/{f'{name} {command.arguments}'.strip():<{_HELP_AT - 2}} {command.help}" for name, command in COMMANDS.items()),
    'A line that ends with \\ goes on in the next; """ begins and ends a message of several lines.',
    "A message that begins with / is written with //. Ctrl-C stops an answer, and what there is of it is kept.",
)


class ChatLoop:
    """Reads entries until there are no more.

    Attributes:
        failures: How many entries could not be done.
    """

    def __init__(self, session: ChatSession, view: View, read: ReadLine, resumes: bool = False) -> None:
        """A loop over a session.

        Args:
            session: The chat.
            view: Where to show what happens.
            read: Reads a line.
            resumes: Whether the next entry is read after Ctrl-C, as where a person types; else the loop ends.
        """
        self._session, self._view, self._read, self._resumes = session, view, read, resumes
        self.failures = 0

    def run(self) -> None:
        """Read and do, until the end of input or ``/quit``; what cannot be done is shown, and counted.

        Raises:
            KeyboardInterrupt: Ctrl-C, if that ends the loop.
        """
        going = True
        while going:
            try:
                entry = read_entry(self._read, f"{self._session.adapter or ''}> ")
                going = entry is not None and self.do(entry)
            except BrokenPipeError:
                raise
            except (AlorakitError, OSError) as exc:
                self.failures += 1
                self._view.failed(" ".join(str(exc).split()))
            except KeyboardInterrupt:
                if not self._resumes:
                    raise
                self._view.done("interrupted", "\n(/quit or Ctrl-D leaves)")

    def do(self, entry: Entry) -> bool:
        """Do what an entry says; False if that is to leave.

        Raises:
            AlorakitError: It cannot be done; the chat is as it was.
        """
        text = entry.text.strip()
        if not text:
            return True
        if entry.quoted or not text.startswith("/") or text.startswith("//"):
            said = entry.text if entry.quoted else text.removeprefix("/") if text.startswith("//") else text
            self._answered(self._session.ask(said, self._view.piece))
            return True
        name, _, rest = text[1:].partition(" ")
        if name not in COMMANDS:
            raise RequestError(f"no command /{name:.40}; /help lists them, and // begins a message with a slash")
        rest = rest.strip()
        if rest and not COMMANDS[name].arguments:
            raise RequestError(f"/{name} takes nothing behind it, found {rest!r:.80}")
        if name == "quit":
            return False
        act: Callable[[str], None] = getattr(self, f"_{name}")
        act(rest)
        return True

    def words(self, line: str) -> list[str]:
        """What the last word of a line may become: commands, adapters, paths."""
        name, space, rest = line.lstrip().removeprefix("/").partition(" ")
        if not line.lstrip().startswith("/"):
            return []
        if not space:
            return [f"/{command}" for command in COMMANDS]
        if name in ("adapter", "check") and " " not in rest:
            return [*self._session.engine.adapters, *([NONE] if name == "adapter" else [])]
        if name in ("save", "load"):
            return paths_like(rest)
        if name == "add":
            adapter, equals, place = rest.partition("=")
            return [f"{adapter}={path}" for path in paths_like(place)] if equals else paths_like(rest)
        return []

    def _answered(self, turn: Turn) -> None:
        self._view.answered(turn)
        if turn.finish_reason == INTERRUPTED and not self._resumes:
            raise KeyboardInterrupt

    def _adapter(self, rest: str) -> None:
        if rest:
            self._session.choose(None if rest == NONE else rest)
        answers = self._session.adapter
        self._view.done("adapter", f"{answers or 'the base model'} answers", adapter=answers)

    def _adapters(self, rest: str) -> None:
        self._view.adapters(list(self._session.engine.adapters.values()), self._session.adapter)

    def _check(self, rest: str) -> None:
        name, _, requirement = rest.partition(" ")
        if name not in self._session.engine.adapters:
            name, requirement = "", rest
        self._view.checked(*self._session.check(name or None, requirement.strip() or None))

    def _add(self, rest: str) -> None:
        info = self._session.add(*split_name(rest))
        self._view.done("add", f"loaded {info.name}", adapter=info.name, kind=info.kind)

    def _system(self, rest: str) -> None:
        if rest:
            self._session.system = None if rest == NONE else rest
        now = self._session.system
        self._view.done("system", "no system message" if now is None else f"system message: {now}", system=now)

    def _undo(self, rest: str) -> None:
        text = self._session.undo()
        self._view.done("undo", f"took back: {text:.200}", text=text)

    def _retry(self, rest: str) -> None:
        try:
            temperature = float(rest) if rest else None
        except ValueError as exc:
            raise RequestError(f"/retry {rest:.40}: not a number; give a temperature such as 0.7, or nothing") from exc
        self._answered(self._session.retry(self._view.piece, temperature))

    def _save(self, rest: str) -> None:
        path = _path("save", rest)
        save_chat(self._session, path)
        self._view.done("save", f"wrote {path}", path=str(path), messages=len(self._session.chat()))

    def _load(self, rest: str) -> None:
        path = _path("load", rest)
        load_chat(self._session, path)
        number = len(self._session.messages)
        self._view.done("load", f"{number} messages of {path}", path=str(path), messages=number)

    def _reset(self, rest: str) -> None:
        self._session.messages = []
        self._view.done("reset", "a new chat")

    def _help(self, rest: str) -> None:
        columns = shutil.get_terminal_size().columns
        indents = (" " * _HELP_AT if line.startswith("/") else "" for line in HELP)
        lines = (fill(line, columns, subsequent_indent=indent) for line, indent in zip(HELP, indents, strict=True))
        self._view.done("help", "\n".join(lines), help=list(HELP))


def _path(command: str, text: str) -> Path:
    if not text:
        raise RequestError(f"/{command} needs a file: /{command} chat.json")
    return Path(text)
