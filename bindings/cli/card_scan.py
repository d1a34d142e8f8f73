"""What in an adapter's texts is better not published: rows of data, addresses, paths of this machine, secrets."""

import json
import re
from collections.abc import Iterator, Mapping

from alorakit.engine.errors import DataError

MAX_LABEL = 80
_SECRET = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{20,}|gh[pousr]_[A-Za-z0-9]{30,}|AKIA[0-9A-Z]{16})\b|"
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
_SUSPECTS = {
    "an e-mail address": re.compile(r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+\b"),
    "a path of this machine": re.compile(r"(?:/home/|/Users/|\b[A-Za-z]:\\{1,2}Users\\)[^\s`\"'|]+"),
    "a row of data": re.compile(r'\{.*"(?:item|messages)"\s*:.*"label"\s*:|\{.*"label"\s*:.*"(?:item|messages)"\s*:'),
    "examples for the Hub's widget": re.compile(r"^widget:"),
}


def check_no_secret(texts: Mapping[str, str]) -> None:
    """Refuse texts that hold an access token or a private key.

    Args:
        texts: Texts by the name of their file.

    Raises:
        DataError: One of them does; the message does not show it.
    """
    for name, text in texts.items():
        for number, line in enumerate(text.splitlines(), 1):
            if _SECRET.search(line):
                raise DataError(
                    f"{name}, line {number}, holds what looks like an access token or a private key; take it out, and "
                    "revoke it if it was ever published"
                )


def data_warnings(texts: Mapping[str, str]) -> list[str]:
    """A line for each thing in the texts that looks like data.

    Args:
        texts: Texts by the name of their file.
    """
    return [warning for name, text in texts.items() for warning in _warnings(name, text)]


def _warnings(name: str, text: str) -> Iterator[str]:
    for kind, pattern in _SUSPECTS.items():
        found = [(number, line) for number, line in enumerate(text.splitlines(), 1) if pattern.search(line)]
        if found:
            number, line = found[0]
            more = f" (and {len(found) - 1} lines more)" if len(found) > 1 else ""
            yield f"{name}, line {number}{more}, has what looks like {kind}: {line.strip()[:60]!r}"
    if name == "alorakit.json":
        long = [label for label in json.loads(text).get("labels", []) if len(label) > MAX_LABEL]
        if long:
            yield f"{name} has labels of more than {MAX_LABEL} characters, such as {long[0][:60]!r}"
