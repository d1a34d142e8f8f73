"""The tables of ``docs/measured.md``, written from ``benchmarks/results/programs.json``: what single programs measured.

``python -m benchmarks.suite.measured`` puts each table between its marks. The file says of each which program printed
it, on which machine and when; what cannot be had again in minutes was copied into it by hand.
"""

import json
import re
from pathlib import Path
from typing import Any

from benchmarks.suite.report import table

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "programs.json"
PAGE = ROOT / "docs" / "measured.md"
MARKS = re.compile(r"(<!-- table (\S+) -->\n).*?(\n<!-- end of table -->)", re.DOTALL)


def write_tables(page: Path, tables: dict[str, Any]) -> None:
    """Write every table of ``tables`` between its marks in ``page``.

    Raises:
        ValueError: A table has no marks, marks have no table, or something stands there twice.
    """
    text = page.read_text(encoding="utf-8")
    marked = [name for _, name, _ in MARKS.findall(text)]
    if sorted(marked) != sorted(tables):
        raise ValueError(f"{page}: marks for {', '.join(marked)}; tables for {', '.join(tables)}")

    def fill(match: re.Match[str]) -> str:
        found = tables[match[2]]
        return match[1] + table(found["columns"], found["rows"]) + match[3]

    page.write_text(MARKS.sub(fill, text), encoding="utf-8")


def main() -> None:
    """Write them."""
    write_tables(PAGE, json.loads(RESULTS.read_text(encoding="utf-8"))["tables"])


if __name__ == "__main__":
    main()
