"""Markdown that no text can break."""

from collections.abc import Sequence


def code_span(text: str) -> str:
    """A text as a code span that stays one in a table cell, whatever it holds; escapes show what does not print."""
    doubled = text.replace("\\", "\\\\")  # so that an escape of ours differs from a backslash of the text's
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in doubled)
    shown = shown.replace("|", "\\|")
    if not shown.strip():
        return f'"{shown}"'
    fence = "`"
    while fence in shown:
        fence += "`"
    pad = " " if shown[0] in "` " or shown[-1] in "` " else ""
    return f"{fence}{pad}{shown}{pad}{fence}"


def table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A table; the cells are taken as they are."""
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def block(source: str, language: str) -> str:
    """Source text, no line of which begins with backticks."""
    return f"```{language}\n{source}\n```"


def paragraphs(*parts: str) -> str:
    """Parts with an empty line between them; empty ones are left out."""
    return "\n\n".join(part for part in parts if part)
