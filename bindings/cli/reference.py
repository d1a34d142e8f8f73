"""``docs/cli.md``, made from the commands: ``python -m alorakit.bindings.cli.reference > docs/cli.md``."""

import inspect
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from typer.models import ArgumentInfo

from alorakit.bindings.cli.chat_loop import COMMANDS as CHAT_COMMANDS
from alorakit.bindings.cli.main import COMMANDS, command_function
from alorakit.training.markdown import block, code_span, paragraphs, table

_HEAD = """\
# The command line

<!-- Made by python -m alorakit.bindings.cli.reference > docs/cli.md; a test compares. -->

Every command is there as `m alora NAME` and as `alorakit NAME`. Where Mellea is installed, `m` has its other commands
(`m serve`, `m decompose`, `m eval`, `m fix`) beside `alora`.

- Results go to stdout, progress, notes and errors to stderr. With `--json` stdout holds one JSON object, or with
  `generate` and `chat` one a line.
- Exit codes: 0; 2 for what can be mended (bad input, a full disk), with one line on stderr; 130 after Ctrl-C; 1 for
  what is unexpected, with a short report. `--debug` shows tracebacks.
- Models are folders or names of the Hub (`org/name`, `org/name@revision`). Adapters are folders or names of the Hub, in
  a collection with the adapter's folder: `org/name/check/SmolLM2-135M-Instruct/alora@v1`.
- `m --install-completion` and `alorakit --install-completion` let bash, zsh and fish complete commands, options and
  paths; `--show-completion` prints what they would install."""

_NOTES = {
    "generate": """\
With `--json` each line has `prompt` and `sample` (their numbers), `text`, `token_ids`, `finish_reason`, `adapter`,
`activation`, `usage`, `timing`, and the log-probabilities that were asked for.""",
    "chat": """\
It reads a pipe as well as a terminal; then the exit code is 2 if something could not be done. With `--json` each line
has `event`: `piece` (`text`), `answer` (`text`, `token_ids`, `finish_reason`, `adapter`, `usage`, `timing`), `check`
(`adapter`, `label`, `answer`, `passed`, `probabilities`, `usage`, `timing`), `adapters`, `error` (`message`), or the
name of another command. Ctrl-C stops the answer under way; over a pipe without `--json` it ends the chat.""",
}


@dataclass(frozen=True)
class _Parameter:
    """An argument or option of a command's function: name, type of a value, typer's words, default, whether a list."""

    name: str
    kind: Any
    info: Any
    default: Any
    many: bool

    @property
    def is_argument(self) -> bool:
        return isinstance(self.info, ArgumentInfo)

    @property
    def required(self) -> bool:
        return self.default is inspect.Parameter.empty

    @property
    def help(self) -> str:
        return _plain(self.info.help or "")

    @property
    def metavar(self) -> str:
        """What stands for its value."""
        if not self.is_argument:
            return self.info.metavar or {int: "INT", float: "FLOAT", Path: "PATH"}.get(self.kind, "TEXT")
        metavar = self.info.metavar or self.name.upper()
        return (metavar if self.required else f"[{metavar}]") + ("..." if self.many else "")

    @property
    def names(self) -> str:
        """An option's names, the first with what is given behind it."""
        name = f"--{self.name.replace('_', '-')}"
        # In an annotation the first name takes the place that is the default's elsewhere.
        declared = [text for text in (self.info.default, *(self.info.param_decls or ())) if isinstance(text, str)]
        declared = declared or ([f"{name}/--no-{name[2:]}"] if self.kind is bool else [name])
        names = [each for part in sorted(declared, key=len, reverse=True) for each in part.split("/")]
        value = "" if self.kind is bool else f" {self.metavar}"
        return ", ".join(code_span(each + ("" if at else value)) for at, each in enumerate(names))

    @property
    def shown_default(self) -> str:
        if self.required:
            return "required"
        if self.default is None or self.default is False:
            return ""
        return code_span(f"{self.default:g}" if isinstance(self.default, float) else str(self.default))


def reference() -> str:
    """The text of ``docs/cli.md``."""
    functions = {name: command_function(name) for name in COMMANDS}
    rows = [(f"[`{name}`](#{name})", _summary(function)) for name, function in functions.items()]
    sections = (_section(name, function) for name, function in functions.items())
    return paragraphs(_HEAD, table(("command", ""), rows), *sections) + "\n"


def _section(name: str, function: Callable[..., None]) -> str:
    parameters = [*_parameters(function)]
    arguments = [parameter for parameter in parameters if parameter.is_argument]
    options = [parameter for parameter in parameters if not parameter.is_argument]
    usage = " ".join(["m alora", name, *(argument.metavar for argument in arguments), "[OPTIONS]"])
    parts = [f"## {name}", _summary(function), block(usage, "sh")]
    if arguments:
        parts.append(table(("argument", ""), [(code_span(argument.metavar), argument.help) for argument in arguments]))
    rows = [(option.names, option.shown_default, option.help) for option in options]
    parts.append(table(("option", "default", ""), rows))
    if name == "chat":
        lines = [(code_span(f"/{n} {c.arguments}".strip()), _plain(c.help)) for n, c in CHAT_COMMANDS.items()]
        parts.append(table(("in the chat", ""), lines))
    return paragraphs(*parts, _NOTES.get(name, ""))


def _parameters(function: Callable[..., None]) -> Iterator[_Parameter]:
    hints = get_type_hints(function, include_extras=True)
    for name, parameter in inspect.signature(function).parameters.items():
        if get_origin(hints[name]) is Annotated:  # all but the context
            kind, info, *_ = get_args(hints[name])
            many = False
            inner = [part for part in get_args(kind) if part is not type(None)]
            while inner:  # a union with None, a list
                many = many or get_origin(kind) is list
                kind = inner[0]
                inner = [part for part in get_args(kind) if part is not type(None)]
            yield _Parameter(name, kind, info, parameter.default, many)


def _summary(function: Callable[..., None]) -> str:
    return _plain(function.__doc__ or "")


def _plain(text: str) -> str:
    """Text of a help message as Markdown that shows it as it is, within a table too."""
    return "".join(_escaped(" ".join(text.split())))


def _escaped(text: str) -> Iterator[str]:
    for part in re.split(r"([<>|*_\[\]`\\])", text):
        yield f"\\{part}" if part in tuple("<>|*_[]`\\") else part


if __name__ == "__main__":
    sys.stdout.write(reference())
