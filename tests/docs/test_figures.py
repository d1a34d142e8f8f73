"""What the README and the pages of benchmarks say is what the committed results say."""

import json
import re
from pathlib import Path

import pytest

from benchmarks.suite import measured, readme, report
from benchmarks.suite.records import load

ROOT = Path(__file__).parents[2]
RESULTS = sorted((ROOT / "benchmarks" / "results").glob("suite-*.json"))
WHOLE = [path for path in RESULTS if not path.stem.endswith("quick")]


def test_there_are_results_of_a_cpu_and_of_a_gpu():
    assert {path.name.startswith("suite-cpu-") for path in WHOLE} == {True, False}


@pytest.mark.parametrize("path", WHOLE, ids=lambda path: path.stem)
def test_the_page_is_what_the_results_give(path, tmp_path):
    made = report.write_report(path, tmp_path)
    committed = ROOT / "docs" / made.name
    assert made.read_text(encoding="utf-8") == committed.read_text(encoding="utf-8")
    for picture in tmp_path.glob("bench-*"):
        assert (ROOT / "docs" / picture.name).is_file()


def test_the_readmes_table_is_what_the_results_give(tmp_path):
    cpu, gpu = (next(load(p) for p in WHOLE if p.name.startswith("suite-cpu-") == is_cpu) for is_cpu in (True, False))
    copy = tmp_path / "README.md"
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    between = re.compile(f"(?<={re.escape(readme.BEGIN)}\n).*(?=\n{re.escape(readme.END)})", re.DOTALL)
    copy.write_text(between.sub("an old table", text), encoding="utf-8")
    readme.write_figures(copy, cpu, gpu)
    assert copy.read_text(encoding="utf-8") == text
    assert text.count("| a check over 2,048 tokens of context, 8 tokens decoded |") == 2


def test_a_readme_without_marks_is_left_alone(tmp_path):
    page = tmp_path / "README.md"
    page.write_text("nothing", encoding="utf-8")
    with pytest.raises(ValueError, match="once each"):
        readme.write_figures(page, load(WHOLE[0]), None)
    assert page.read_text(encoding="utf-8") == "nothing"


def test_the_tables_of_single_programs_are_what_their_file_says(tmp_path):
    tables = json.loads(measured.RESULTS.read_text(encoding="utf-8"))["tables"]
    assert all(set(found) >= {"program", "machine", "date", "entered"} for found in tables.values())
    text = measured.PAGE.read_text(encoding="utf-8")
    copy = tmp_path / "measured.md"
    copy.write_text(measured.MARKS.sub(r"\1an old table\3", text), encoding="utf-8")
    measured.write_tables(copy, tables)
    assert copy.read_text(encoding="utf-8") == text


def test_a_table_without_marks_is_an_error(tmp_path):
    page = tmp_path / "measured.md"
    page.write_text("<!-- table one -->\nold\n<!-- end of table -->", encoding="utf-8")
    with pytest.raises(ValueError, match="marks for one; tables for two"):
        measured.write_tables(page, {"two": {}})
