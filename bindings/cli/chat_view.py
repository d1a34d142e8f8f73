"""What a chat shows: text for people, or an event a line for programs."""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol

import typer

from alorakit.bindings.cli.chat_session import INTERRUPTED, Turn

if TYPE_CHECKING:
    from alorakit.bindings.checks.question import Verdict
    from alorakit.engine.adapters import AdapterInfo

_MAX_LABELS = 8


class View(Protocol):
    """Where a chat's loop shows what happens."""

    def piece(self, text: str) -> None:
        """A piece of the answer under way."""

    def answered(self, turn: Turn) -> None:
        """The answer is there, whole or interrupted."""

    def checked(self, info: "AdapterInfo", verdict: "Verdict") -> None:
        """A check was answered."""

    def adapters(self, infos: Sequence["AdapterInfo"], chosen: str | None) -> None:
        """The loaded adapters, and the one that answers."""

    def done(self, event: str, words: str, **data: object) -> None:
        """A command did what it says: in words, and as data."""

    def failed(self, message: str) -> None:
        """Something could not be done."""


class TextView:
    """For people: answers and what was asked for on stdout, counters and errors on stderr.

    Colours are for terminals only, and not where ``NO_COLOR`` is set.
    """

    def piece(self, text: str) -> None:
        """Print it."""
        typer.echo(text, nl=False)

    def answered(self, turn: Turn) -> None:
        """End the line, and say what was reused and how fast it was."""
        typer.echo()
        self._aside(counter(turn))

    def checked(self, info: "AdapterInfo", verdict: "Verdict") -> None:
        """Label or text, probabilities, verdict, cost."""
        passed = {None: "", True: " (passes)", False: " (fails)"}[verdict.passed]
        answer = verdict.label if verdict.probabilities else verdict.answer
        typer.echo(f"{info.name}: {self._styled(str(answer), bold=True)}{passed}")
        for label, probability in sorted(verdict.probabilities.items(), key=lambda pair: -pair[1])[:_MAX_LABELS]:
            typer.echo(f"  {probability:6.1%} {label}")
        usage = verdict.usage
        self._aside(f"{reused(usage.cached_tokens, usage.prompt_tokens)} · {1e3 * verdict.timing.total_s:.0f} ms")

    def adapters(self, infos: Sequence["AdapterInfo"], chosen: str | None) -> None:
        """One a line."""
        for info in infos:
            kind = {"alora": "aLoRA", "lora": "LoRA"}[info.kind]
            labels = ", ".join((info.manifest.labels if info.manifest else ())[:_MAX_LABELS])
            mark = " (answers)" if info.name == chosen else ""
            typer.echo(f"{info.name}{mark}: {kind} of rank {info.rank}{f'; {labels}' if labels else ''}")
        if not infos:
            typer.echo("no adapter is loaded; add one with /add name=DIR")

    def done(self, event: str, words: str, **data: object) -> None:
        """The words."""
        typer.echo(words)

    def failed(self, message: str) -> None:
        """The message, as commands end with it."""
        typer.echo(self._styled(f"error: {message}", fg="red"), err=True)

    def _aside(self, text: str) -> None:
        typer.echo(self._styled(text, dim=True), err=True)

    def _styled(self, text: str, **style: Any) -> str:
        return text if os.environ.get("NO_COLOR") else typer.style(text, **style)  # echo drops it off a terminal


class JsonView:
    """For programs: a JSON object a line, each with ``event``."""

    def piece(self, text: str) -> None:
        """``piece``: text."""
        if text:
            self._emit("piece", text=text)

    def answered(self, turn: Turn) -> None:
        """``answer``: the whole of it, with ids, usage and timing."""
        self._emit("answer", **asdict(turn))

    def checked(self, info: "AdapterInfo", verdict: "Verdict") -> None:
        """``check``: label, probabilities, verdict, usage and timing."""
        self._emit("check", adapter=info.name, **asdict(verdict))

    def adapters(self, infos: Sequence["AdapterInfo"], chosen: str | None) -> None:
        """``adapters``: what is loaded."""
        found = [
            {
                "name": info.name,
                "kind": info.kind,
                "rank": info.rank,
                "labels": list(info.manifest.labels) if info.manifest else [],
                "answers": info.name == chosen,
            }
            for info in infos
        ]
        self._emit("adapters", adapters=found)

    def done(self, event: str, words: str, **data: object) -> None:
        """The command's own event with its data."""
        self._emit(event, **data)

    def failed(self, message: str) -> None:
        """``error``: message."""
        self._emit("error", message=message)

    def _emit(self, event: str, **data: object) -> None:
        typer.echo(json.dumps({"event": event, **data}, ensure_ascii=False))


def counter(turn: Turn) -> str:
    """What one turn cost: prompt tokens reused, tokens written, their rate after the first one."""
    parts = [] if turn.usage is None else [reused(turn.usage.cached_tokens, turn.usage.prompt_tokens, "prompt ")]
    tokens = len(turn.token_ids)
    parts.append(f"{tokens} token{'s' if tokens != 1 else ''}")
    if turn.timing is not None and tokens > 1:
        parts.append(f"{(tokens - 1) / max(turn.timing.total_s - turn.timing.ttft_s, 1e-9):.0f} tok/s")
    ends = {"length": "cut at --max-tokens", INTERRUPTED: "stopped", "abort": "stopped"}
    return " · ".join([*parts, *([ends[turn.finish_reason]] if turn.finish_reason in ends else [])])


def reused(cached: int, total: int, kind: str = "") -> str:
    """``412 of 418 tokens reused``."""
    return f"{cached} of {total} {kind}tokens reused"


def terminal() -> bool:
    """Whether somebody sits there: both typing and reading."""
    return sys.stdin.isatty() and sys.stdout.isatty()
