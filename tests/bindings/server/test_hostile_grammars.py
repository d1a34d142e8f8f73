"""Regular expressions and schemas that explode: bounded in time and memory, while others' streams go on."""

import threading
from collections.abc import Callable
from typing import Any

import httpx
import psutil
import pytest

from alorakit import Engine
from alorakit.engine import structured
from tests.bindings.server.raw import shared_engine
from tests.bindings.server.running import CHAT, Running, chat, error_of, events

engine = shared_engine


@pytest.fixture
def server(live: Callable[..., Running]) -> Running:
    return live()


def ask(server: Running, **body: Any) -> httpx.Response:
    return httpx.post(server.url + CHAT, json=chat(**body), timeout=120)


def chain(kind: str, depth: int) -> dict[str, Any]:
    """A schema in which each definition names the next one twice."""
    both = {f"d{i}": {kind: [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(depth)}
    return {"$defs": both | {f"d{depth}": {"type": "null"}}, "$ref": "#/$defs/d0"}


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(depth):
        schema = {"type": "array", "minItems": 1000, "items": schema}
    return schema


LOOP = {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}
OPTIONAL = {f"p{i}": {"type": "string"} for i in range(2000)}
SCHEMAS: dict[str, dict[str, Any]] = {
    "a loop": {"$ref": "#"},
    "two in a loop": {"$defs": LOOP, "$ref": "#/$defs/a"},
    "2^30 alternatives": chain("anyOf", 30),
    "2^30 conjunctions": chain("allOf", 30),
    "counted": nested(20),
    "a large enum": {"enum": [f"v{i}" for i in range(10_000)]},
    "optional properties": {"type": "object", "properties": OPTIONAL, "additionalProperties": False},
    "a file": {"$ref": "file:///etc/passwd"},
    "an address": {"$ref": "http://127.0.0.1:1/schema"},
    "a pattern": {"type": "string", "pattern": "^((a{1,100}){1,100}){1,100}$"},
    "a huge number": {"type": "integer", "minimum": 10**4000},
}
REGEXES = ["a{1000000}", "((a{1,100}){1,100}){1,100}", "(a|b)*a(a|b){200}", "(a+)+$", "(" * 5000 + ")" * 5000,
           "a?" * 4000 + "a" * 4000, "(.*,){100}X", "(?=a)b", r"(a)\1", "\\p{L}{1,20000}", "["]  # fmt: skip


def test_others_go_on_and_memory_stays(server: Running, engine: Engine) -> None:
    done = threading.Event()
    answers: list[int] = []

    def stream() -> None:
        while not done.is_set():
            answer = ask(server, stream=True, max_tokens=40, ignore_eos=True)
            answers.append(len(events(answer.text)))

    before = psutil.Process().memory_info().rss
    other = threading.Thread(target=stream)
    other.start()
    try:
        for schema in SCHEMAS.values():
            form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
            count = len(answers)
            answer = ask(server, response_format=form, max_tokens=4)
            assert answer.status_code in (200, 400), answer.text
        for regex in REGEXES:
            assert ask(server, guided_regex=regex, max_tokens=4).status_code in (200, 400), regex
        for letter in "abcdefghijkl":  # each takes some 80 MB, and is let go
            error_of(ask(server, guided_regex=f"{letter}{{1000000}}", max_tokens=4), 400)
        assert len(answers) > count
    finally:
        done.set()
        other.join()
    assert psutil.Process().memory_info().rss - before < 900 << 20
    failed = [grammar for grammar in engine.intake._admission._grammars._compiled.values() if grammar.failed]
    assert len(failed) <= 1


def test_nobody_waits_for_anothers_grammar(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    go, begun, really = threading.Event(), threading.Event(), structured.Grammars._compile

    def slow(self: Any, kind: str, text: str) -> Any:
        if text == "slow":
            begun.set()
            assert go.wait(60)
        return really(self, kind, text)

    monkeypatch.setattr(structured.Grammars, "_compile", slow)
    answers: list[int] = []
    waiting = threading.Thread(target=lambda: answers.append(ask(server, guided_regex="slow").status_code))
    waiting.start()
    try:
        assert begun.wait(30)
        assert ask(server, guided_regex="ab").json()["choices"][0]["message"]["content"] == "ab"
        assert ask(server).status_code == 200
        assert answers == []
    finally:
        go.set()
        waiting.join()
    assert answers == [200]
