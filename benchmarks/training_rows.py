"""Rows for the training benchmarks: from a file, or made up where there is none."""

import json
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path

from alorakit.bindings.cli.notes import generate_notes
from alorakit.engine.tokenizer import Tokenizer

Row = dict[str, str]
SEED = 7


def read_rows(data: str | None, num: int) -> list[Row]:
    """``item`` and ``label`` of the first ``num`` rows of a JSONL file; None: of technicians' notes.

    Raises:
        SystemExit: The file has fewer rows.
    """
    if data is None:
        return generate_notes(num, SEED)
    with Path(data).open(encoding="utf-8") as handle:
        rows = [json.loads(line) for line in handle if line.strip()]
    if len(rows) < num:
        raise SystemExit(f"{data} has {len(rows)} rows, {num} are needed; give a longer file or a lower --rows")
    return rows[:num]


def long_rows(data: str | None, tokenizer: Tokenizer, num: int, tokens: int) -> list[Row]:
    """``num`` rows whose items are others' joined until they have ``tokens`` tokens or some more; labels: the last's.

    The trainer's ``max_length`` then cuts them to one length.
    """
    source = _items(data, num * tokens)
    rows = []
    for _ in range(num):
        parts: list[str] = []
        while len(tokenizer.encode("\n".join(parts))) < tokens:
            row = next(source)
            parts.append(row["item"])
        rows.append({"item": "\n".join(parts), "label": row["label"]})
    return rows


def write_rows(path: Path, rows: Sequence[Row]) -> Path:
    """Write JSON lines."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def _items(data: str | None, tokens: int) -> Iterator[Row]:
    """The file's rows, again and again; or as many notes as hold so many tokens for sure."""
    if data is None:
        return iter(generate_notes(tokens // 20 + 1, SEED))
    with Path(data).open(encoding="utf-8") as handle:
        return cycle([json.loads(line) for line in handle if line.strip()])
