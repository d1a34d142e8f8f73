"""Chat templates: jinja2 in a sandbox, with the filters, globals and tags that transformers gives them."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any, NoReturn

from jinja2 import TemplateError, TemplateSyntaxError, meta, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser

from alorakit.engine.errors import TokenizerError
from alorakit.engine.template_limits import MAX_CHARS, LimitedEnvironment

_MAX_INDENT = 64
_ALWAYS_GIVEN = frozenset(
    ["messages", "add_generation_prompt", "tools", "documents"]
    + [f"{name}_token" for name in ("bos", "eos", "unk", "pad", "sep", "cls", "mask")]
)
# A template is somebody else's program: besides jinja2's own errors it can fail as any expression can.
_FAILURES = (
    TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError, MemoryError
)  # fmt: skip


class _GenerationTag(Extension):
    """``{% generation %}`` marks what an assistant wrote; rendering needs only what stands inside it."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it as a plain class attribute

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


class ChatTemplate:
    """One compiled chat template.

    Attributes:
        source: The template's text.
        now: The moment a template sees when it asks for the date; frozen, so that a chat renders alike all session.
    """

    def __init__(self, source: str, now: datetime, where: str = "chat template") -> None:
        """Compile ``source``.

        Args:
            source: jinja2 text.
            now: Local time that ``strftime_now`` formats.
            where: File or key that the text comes from, for the error message.

        Raises:
            TokenizerError: The text is not valid jinja2.
        """
        self.source = source
        self.now = now
        environment = self._environment = LimitedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols]
        )
        environment.filters["tojson"] = _tojson
        del environment.globals["lipsum"]  # text without end, and no template needs it
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = self._strftime_now
        try:
            self._template = environment.from_string(source)
        except TemplateSyntaxError as exc:
            raise TokenizerError(f"{where}: not a valid jinja2 template, line {exc.lineno}: {exc.message}") from exc
        except (SyntaxError, *_FAILURES) as exc:  # jinja2 writes Python, which has limits of its own
            raise TokenizerError(f"{where}: too deeply nested or too large to compile ({type(exc).__name__})") from exc

    @cached_property
    def variables(self) -> frozenset[str]:
        """What it reads besides the messages, tools, documents and special tokens that it always gets."""
        environment = self._environment
        read = meta.find_undeclared_variables(environment.parse(self.source))
        return frozenset(read - environment.globals.keys() - _ALWAYS_GIVEN)

    def render(self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool, **variables: Any) -> str:
        """The chat as text.

        Args:
            messages: Mappings with at least ``role`` and ``content``.
            add_generation_prompt: Whether to open the assistant's turn at the end.
            variables: Everything else the template may read (special tokens, tools, documents).

        Raises:
            TokenizerError: The template refused the messages, failed on them, or writes or runs without end.
        """
        parts, size = [], 0
        self._environment.start()
        try:
            for part in self._template.generate(
                messages=list(messages), add_generation_prompt=add_generation_prompt, **variables
            ):
                parts.append(part)
                size += len(part)
                if size > MAX_CHARS:
                    raise TemplateError(f"it wrote more than {MAX_CHARS} characters")
            return "".join(parts)
        except _FAILURES as exc:
            reason = " ".join(str(exc).split()) or type(exc).__name__
            raise TokenizerError(
                f"the chat template failed: {reason}; check the roles, their order and the content of the messages"
            ) from exc

    def _strftime_now(self, fmt: str) -> str:
        return self.now.strftime(fmt)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # jinja2's own filter escapes HTML, which a prompt must not contain.
    if indent is not None and indent > _MAX_INDENT:
        raise TemplateError(f"tojson: indent={indent} is above {_MAX_INDENT}")
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)
