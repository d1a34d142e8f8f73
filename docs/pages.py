"""The Markdown pages: which they are, their links, headings and code blocks; and what is wrong with them."""

import ast
import configparser
import json
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_FENCE = re.compile(
    r"(?:<!-- (?P<mark>[^\n]*?) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE
)
_LINK = re.compile(r"\]\((?P<target>[^()\s]+)\)")
_HEADING = re.compile(r"^#{1,6} +(?P<text>.+?)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced code block.

    Attributes:
        language: What stands after the fence; empty: none.
        text: The code.
        mark: The comment on the line before, such as ``run``; empty: none.
    """

    language: str
    text: str
    mark: str


def all_pages() -> list[Path]:
    """Every page of the documentation, those at the root first."""
    docs = sorted((ROOT / "docs").rglob("*.md"))
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *docs]


def blocks(text: str) -> list[Block]:
    """The fenced code blocks of a page, in order."""
    return [Block(m["language"], m["text"], m["mark"] or "") for m in _FENCE.finditer(text)]


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading; a heading that comes again gets ``-1`` and so on."""
    plain = re.sub(r"[`*]|\[([^]]*)\]\([^)]*\)", lambda match: match[1] or "", heading)
    return re.sub(r"[^\w\- ]", "", plain.strip().lower()).replace(" ", "-")


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings."""
    seen: Counter[str] = Counter()
    found = set()
    for match in _HEADING.finditer(_FENCE.sub("", text)):
        name = slug(match["text"])
        found.add(f"{name}-{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return found


def links(text: str) -> list[str]:
    """Targets of a page's links and pictures, outside of code."""
    prose = re.sub(r"`[^`\n]+`", "", _FENCE.sub("", text))
    return [match["target"] for match in _LINK.finditer(prose)]


def broken_links(page: Path) -> Iterator[str]:
    """Relative links of a page that lead nowhere: no such file, or no such heading in it."""
    text = page.read_text(encoding="utf-8")
    for target in links(text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists():
            yield f"{page.relative_to(ROOT)}: no file {target}"
        elif anchor and file.suffix == ".md" and anchor not in anchors(file.read_text(encoding="utf-8")):
            yield f"{page.relative_to(ROOT)}: no heading {target}"


def broken_blocks(page: Path) -> Iterator[str]:
    """Code blocks of a page that cannot be read as what they say they are."""
    for number, block in enumerate(blocks(page.read_text(encoding="utf-8")), start=1):
        try:
            if block.language == "python":
                ast.parse(block.text)
            elif block.language == "json":
                json.loads(block.text)
            elif block.language in ("sh", "console"):
                commands(block.text)
            elif block.language == "ini":
                configparser.ConfigParser(interpolation=None).read_string(block.text)
            elif block.language:
                raise ValueError(f"language {block.language} is not known here")
        except (SyntaxError, ValueError, configparser.Error) as exc:
            yield f"{page.relative_to(ROOT)}: block {number} ({block.language}): {exc}"


def commands(text: str) -> list[list[str]]:
    """The commands of a shell block as words; without comments, lines joined after a backslash and within quotes."""
    found, begun = [], ""
    for line in text.replace("\\\n", " ").splitlines():
        begun += f"{line}\n"
        try:
            words = shlex.split(begun, comments=True)
        except ValueError:  # a quote is open: the command goes on
            continue
        found += [words] if words else []
        begun = ""
    if begun:
        shlex.split(begun, comments=True)  # says what is wrong
    return found
