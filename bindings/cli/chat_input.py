"""What a person types in a chat: lines, entries of several lines, and readline's history and completion."""

import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from alorakit.engine.errors import DataError

QUOTES = '"""'
MORE = "... "

ReadLine = Callable[[str], str | None]
"""Reads a line behind a prompt; None at the end of input."""


@dataclass(frozen=True)
class Entry:
    """One thing that was typed.

    Attributes:
        text: All its lines.
        quoted: Whether it came between triple quotes, where nothing has a meaning of its own.
    """

    text: str
    quoted: bool = False


def read_entry(read: ReadLine, prompt: str) -> Entry | None:
    r"""One entry: a line; lines as long as each ends with a backslash; or everything between two triple quotes.

    Args:
        read: Reads a line.
        prompt: Before the first line.

    Returns:
        None at the end of input. If that comes within an entry, what there is of it counts.
    """
    line = read(prompt)
    if line is None:
        return None
    if line.lstrip().startswith(QUOTES):
        return Entry(_block(read, line.lstrip()[len(QUOTES) :]), quoted=True)
    lines = []
    while line is not None and line.endswith("\\"):
        lines.append(line[:-1])
        line = read(MORE)
    return Entry("\n".join([*lines, *([] if line is None else [line])]))


def _block(read: ReadLine, line: str | None) -> str:
    lines = []
    while line is not None and not line.rstrip().endswith(QUOTES):
        lines.append(line)
        line = read(MORE)
    if line is not None:
        lines.append(line.rstrip()[: -len(QUOTES)])
    return "\n".join(lines).strip("\n")


def piped_line(prompt: str) -> str | None:
    """A line of standard input that nobody types: no prompt is shown.

    Raises:
        DataError: It is not UTF-8.
    """
    try:
        line = sys.stdin.readline()
    except UnicodeDecodeError as exc:
        raise DataError(f"standard input is not UTF-8 text ({exc}); convert it") from exc
    return line.rstrip("\r\n") if line else None


def typed_line(prompt: str) -> str | None:
    """A line that somebody types on a terminal, with readline's editing where Python has it."""
    try:
        return input(prompt)
    except EOFError:
        print()
        return None


class LineEditor:
    """Readline's history and completion while a chat runs; without readline nothing but plain lines."""

    def __init__(self, words: Callable[[str], Iterable[str]], history: Path | None) -> None:
        """Completion and history.

        Args:
            words: What a word may become, by the line up to the cursor.
            history: File that lines are kept in from one chat to the next; None: they are forgotten.
        """
        self._words, self._history = words, history
        self._found: list[str] = []
        self._readline: Any = _readline()

    def __enter__(self) -> "LineEditor":
        """Set readline up."""
        if self._readline is not None:
            self._readline.set_completer(self._complete)
            self._readline.set_completer_delims(" \t\n")
            libedit = "libedit" in (self._readline.__doc__ or "")
            self._readline.parse_and_bind("bind ^I rl_complete" if libedit else "tab: complete")
            if self._history is not None:
                with suppress(OSError):  # it is not there yet
                    self._readline.read_history_file(str(self._history))
        return self

    def __exit__(self, *_: object) -> None:
        """Write the history."""
        if self._readline is not None:
            self._readline.set_completer(None)
            if self._history is not None:
                with suppress(OSError):  # a chat does not fail for that
                    self._readline.write_history_file(str(self._history))
                    self._history.chmod(0o600)

    def _complete(self, text: str, state: int) -> str | None:
        if state == 0:
            line = self._readline.get_line_buffer()[: self._readline.get_endidx()]
            self._found = sorted(word for word in self._words(line) if word.startswith(text))
        return self._found[state] if state < len(self._found) else None


def paths_like(text: str) -> list[str]:
    """Files and folders whose path begins with a text; folders end with a slash."""
    head, slash, name = text.rpartition("/")
    try:
        entries = [*Path(head + slash or ".").expanduser().iterdir()]
    except (OSError, RuntimeError):  # no such folder, no such user
        return []
    found = (entry for entry in entries if entry.name.startswith(name))
    return [f"{head}{slash}{entry.name}{'/' if entry.is_dir() else ''}" for entry in found]


def _readline() -> ModuleType | None:
    try:
        import readline
    except ImportError:
        return None
    return readline
