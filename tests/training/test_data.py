import json
from pathlib import Path

import pytest

from alorakit.engine.errors import ConfigError, DataError
from alorakit.engine.layouts import DEFAULT_INVOCATION
from alorakit.engine.tokenizer import Tokenizer
from alorakit.training import load_examples

ROW = {"item": "The pump vibrates.", "label": "yes"}


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer_dir: Path) -> Tokenizer:
    return Tokenizer.from_pretrained(tiny_tokenizer_dir)


def write(path: Path, *lines: object, bom: bool = False) -> Path:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_bytes((b"\xef\xbb\xbf" if bom else b"") + text.encode())
    return path


def test_rows_are_laid_out_as_a_check_asks_them(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = write(tmp_path / "d.jsonl", ROW, "", "  ", {**ROW, "label": "no"}, bom=True)
    rows = load_examples(path, tokenizer)
    assert (len(rows), rows.truncated, rows.invocation) == (2, 0, DEFAULT_INVOCATION)
    assert list(rows[0].prefix_ids) == tokenizer.render([{"role": "user", "content": ROW["item"]}])
    assert list(rows[0].invocation_ids) == tokenizer.encode(DEFAULT_INVOCATION, add_special_tokens=False)
    assert [list(r.label_ids) for r in rows] == [tokenizer.encode(t, add_special_tokens=False) for t in ("yes", "no")]
    assert rows[0].num_tokens == sum(map(len, (rows[0].prefix_ids, rows[0].invocation_ids, rows[0].label_ids))) + 1
    assert not rows[0].requirement


def test_a_requirement_is_a_second_message(tmp_path: Path, tokenizer: Tokenizer) -> None:
    row = {**ROW, "rule": "It must be 'yes'."}
    rows = load_examples(write(tmp_path / "d.jsonl", row, row), tokenizer, requirement_field="rule")
    messages = [{"role": "user", "content": ROW["item"]}, {"role": "user", "content": "Requirement: It must be 'yes'."}]
    assert list(rows[0].prefix_ids) == tokenizer.render(messages)
    assert rows[0].requirement


def test_mellea_layout_is_tokenized_whole(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = write(tmp_path / "d.jsonl", ROW, ROW)
    row = load_examples(path, tokenizer, layout="mellea", invocation="<|start_header_id|>")[0]
    whole = f"{ROW['item']}\nRequirement: <|end_of_text|>\n<|start_header_id|>yes"
    ids = [*row.prefix_ids, *row.invocation_ids, *row.label_ids]
    assert ids == tokenizer.encode(whole, add_special_tokens=False)


@pytest.mark.parametrize(
    ("lines", "number", "what"),
    [
        ([ROW, "{'item': 1}"], 2, "not valid JSON"),
        ([ROW, "", "{"], 3, "not valid JSON"),
        ([ROW, "[" * 100_000], 2, "not valid JSON"),
        ([ROW, "[1]"], 2, "found list"),
        ([{"label": "yes"}], 1, "'item' is missing"),
        ([{"item": "x"}], 1, "'label' is missing"),
        ([{"item": 3, "label": "yes"}], 1, "'item' must be a string, found int"),
        ([{"item": "x", "label": None}], 1, "'label' must be a string, found NoneType"),
        ([{"item": " ", "label": "yes"}], 1, "'item' is empty"),
        ([{"item": "x", "label": ""}], 1, "'label' is empty"),
        (['{"item": "\\ud800", "label": "yes"}'], 1, "surrogate"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_line_is_named(tmp_path: Path, tokenizer: Tokenizer, lines: list[object], number: int, what: str) -> None:
    path = write(tmp_path / "d.jsonl", *lines)
    with pytest.raises(DataError, match=what) as info:
        load_examples(path, tokenizer)
    assert str(info.value).startswith(f"{path}:{number}: ")
    assert "\n" not in str(info.value)


def test_bytes_that_are_not_utf8(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "d.jsonl"
    path.write_bytes(json.dumps(ROW).encode() + b'\n{"item": "caf\xe9"}')
    with pytest.raises(DataError, match=f"{path}:2: not UTF-8"):
        load_examples(path, tokenizer)


@pytest.mark.parametrize(("lines", "found"), [([], "no rows"), (["", " "], "no rows"), ([ROW], "one row")])
def test_too_few_rows(tmp_path: Path, tokenizer: Tokenizer, lines: list[object], found: str) -> None:
    with pytest.raises(DataError, match=found):
        load_examples(write(tmp_path / "d.jsonl", *lines), tokenizer)


def test_files_that_cannot_be_read(tmp_path: Path, tokenizer: Tokenizer) -> None:
    for path in (tmp_path / "missing.jsonl", tmp_path):
        with pytest.raises(DataError, match="cannot be read"):
            load_examples(path, tokenizer)


def test_a_missing_requirement_is_named(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = write(tmp_path / "d.jsonl", {**ROW, "rule": "r"}, ROW)
    with pytest.raises(DataError, match=f"{path}:2: 'rule' is missing"):
        load_examples(path, tokenizer, requirement_field="rule")


def test_a_mellea_row_that_loses_its_invocation_is_named(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = write(tmp_path / "d.jsonl", {**ROW, "label": "s"}, ROW)
    merging = next(t for t in ("ye", "ston", "vibrate", "pum") if len(tokenizer.encode(t + "s")) == 1)
    with pytest.raises(DataError, match=f"{path}:1: .*merges the invocation"):
        load_examples(path, tokenizer, layout="mellea", invocation=merging)


@pytest.mark.parametrize("layout", ["chat", "mellea"])
def test_a_long_item_is_cut_from_the_left(tmp_path: Path, tokenizer: Tokenizer, layout: str) -> None:
    item = " ".join(f"word{i}" for i in range(200))
    path = write(tmp_path / "d.jsonl", ROW, {"item": item, "label": "no"})
    how = {"layout": layout, "invocation": "<|start_header_id|>"}
    whole = load_examples(path, tokenizer, max_length=10_000, **how)
    rows = load_examples(path, tokenizer, max_length=80, **how)
    assert (whole.truncated, rows.truncated) == (0, 1)
    assert rows[0] == whole[0]
    assert 75 <= rows[1].num_tokens <= 80
    assert (rows[1].invocation_ids, rows[1].label_ids) == (whole[1].invocation_ids, whole[1].label_ids)
    text = tokenizer.decode(rows[1].prefix_ids, skip_special_tokens=False)
    assert "word199" in text and "word0 " not in text
    opening = "<|im_start|>user\n" if layout == "chat" else ""
    assert text.startswith(opening)


def test_a_template_that_does_not_fit(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = write(tmp_path / "d.jsonl", ROW, ROW)
    needed = len(tokenizer.render([{"role": "user", "content": ""}])) + 1 + 1 + len(tokenizer.encode("yes"))
    with pytest.raises(
        DataError, match=f"{path}:1: the row needs {needed} tokens .* raise max_length to at least {needed}"
    ):
        load_examples(path, tokenizer, invocation="<|start_header_id|>", max_length=needed - 1)


def test_bad_arguments(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = write(tmp_path / "d.jsonl", ROW, ROW)
    for bad in ({"layout": "raw"}, {"invocation": ""}, {"max_length": 0}):
        with pytest.raises(ConfigError, match=next(iter(bad))):
            load_examples(path, tokenizer, **bad)


def test_a_row_of_which_nothing_fits_is_named(tmp_path: Path, tokenizer: Tokenizer) -> None:
    rows = [{"item": "word " * 40, "label": "no"}, {"item": "b", "label": "no"}]
    path = write(tmp_path / "rows.jsonl", *rows)
    least = load_examples(write(tmp_path / "one.jsonl", rows[1], rows[1]), tokenizer)[0].num_tokens
    with pytest.raises(DataError, match="nothing of the item fits"):
        load_examples(path, tokenizer, max_length=least)
