"""Rows of a file: chats, requirements, weights, compression."""

import gzip
import json
from pathlib import Path

import pytest

from alorakit.engine.errors import DataError, TokenizerError
from alorakit.engine.tokenizer import Tokenizer
from alorakit.training import load_examples

ROW = {"item": "The pump vibrates.", "label": "yes"}
CHAT = [
    {"role": "system", "content": "You are a technician."},
    {"role": "user", "content": "It hums.", "name": "anybody"},
    {"role": "assistant", "content": "Since when?"},
]


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer_dir: Path) -> Tokenizer:
    return Tokenizer.from_pretrained(tiny_tokenizer_dir)


def write(path: Path, *rows: object) -> Path:
    text = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def test_a_chat_is_rendered_as_the_context(tmp_path: Path, tokenizer: Tokenizer) -> None:
    rows = load_examples(write(tmp_path / "d.jsonl", {"messages": CHAT, "label": "no"}, ROW), tokenizer)
    plain = [{"role": m["role"], "content": m["content"]} for m in CHAT]
    assert list(rows[0].prefix_ids) == tokenizer.render(plain)
    assert list(rows[1].prefix_ids) == tokenizer.render([{"role": "user", "content": ROW["item"]}])


def test_layout_mellea_puts_messages_on_lines(tmp_path: Path, tokenizer: Tokenizer) -> None:
    row = {"messages": CHAT, "label": "no", "requirement": "Be kind."}
    path = write(tmp_path / "d.jsonl", row, row)
    example = load_examples(path, tokenizer, layout="mellea", invocation="<|start_header_id|>")[0]
    text = "You are a technician.\nIt hums.\nSince when?\nBe kind.\nRequirement: <|end_of_text|>\n"
    assert tokenizer.decode(example.prefix_ids, skip_special_tokens=False) == text


def test_a_long_chat_loses_the_left_end_of_its_longest_message(tmp_path: Path, tokenizer: Tokenizer) -> None:
    long = " ".join(f"word{i}" for i in range(200))
    chat = [CHAT[0], {"role": "assistant", "content": long}, CHAT[1]]
    path = write(tmp_path / "d.jsonl", {"messages": chat, "label": "no"}, ROW)
    rows = load_examples(path, tokenizer, invocation="<|start_header_id|>", max_length=140)
    assert rows.truncated == 1
    assert 134 <= rows[0].num_tokens <= 140
    text = tokenizer.decode(rows[0].prefix_ids, skip_special_tokens=False)
    assert CHAT[0]["content"] in text and CHAT[1]["content"] in text
    assert "word199" in text and "word0 " not in text
    with pytest.raises(DataError, match=f"{path}:1: .* even with its longest message empty"):
        load_examples(path, tokenizer, max_length=20)


def test_the_first_row_decides_whether_rows_have_requirements(tmp_path: Path, tokenizer: Tokenizer) -> None:
    asked = {**ROW, "requirement": "It must be 'yes'."}
    rows = load_examples(write(tmp_path / "d.jsonl", asked, asked), tokenizer)
    messages = [{"role": "user", "content": ROW["item"]}, {"role": "user", "content": "Requirement: It must be 'yes'."}]
    assert list(rows[0].prefix_ids) == tokenizer.render(messages)
    assert rows[0].requirement
    path = write(tmp_path / "lacks.jsonl", "", asked, asked, ROW)
    with pytest.raises(DataError, match=f"{path}:4: 'requirement' is missing, line 2 has one"):
        load_examples(path, tokenizer)
    path = write(tmp_path / "has.jsonl", ROW, asked)
    with pytest.raises(DataError, match=f"{path}:2: 'requirement' is given, line 1 has none"):
        load_examples(path, tokenizer)
    named = load_examples(write(tmp_path / "named.jsonl", asked, ROW), tokenizer, requirement_field="label")
    assert list(named[0].prefix_ids)[-1] and named[1].requirement  # the field that was named, and no other


def test_weights_and_lines(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = write(tmp_path / "d.jsonl", ROW, "", {**ROW, "weight": 3}, {**ROW, "weight": 0.5})
    assert [(row.line, row.weight) for row in load_examples(path, tokenizer)] == [(1, 1.0), (3, 3.0), (4, 0.5)]


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({**ROW, "weight": 0}, "'weight' is 0"),
        ({**ROW, "weight": 1e-300}, "'weight' is 1e-300; it must be a number from 0.000001 to 1000000"),
        ({**ROW, "weight": 1e30}, "'weight' is 1e+30"),
        ({**ROW, "weight": -1.5}, "'weight' is -1.5"),
        ({**ROW, "weight": True}, "'weight' is True"),
        ({**ROW, "weight": "2"}, "'weight' is '2'"),
        ({**ROW, "weight": None}, "'weight' is None"),
        ('{"item": "x", "label": "y", "weight": NaN}', "'weight' is nan"),
        ({**ROW, "weight": 10**400}, "'weight' is 1000"),
        ({**ROW, "messages": CHAT}, "'item' and 'messages' are both given"),
        ({"messages": [], "label": "y"}, "'messages' must be a list of at least one"),
        ({"messages": "x", "label": "y"}, "'messages' must be a list"),
        ({"messages": [CHAT[0], "x"], "label": "y"}, "message 2 must be an object whose 'role' is one of system"),
        ({"messages": [{"role": "tool", "content": "x"}], "label": "y"}, "message 1 must be an object whose 'role'"),
        ({"messages": [{"role": ["user"], "content": "x"}], "label": "y"}, "message 1 must be an object whose 'role'"),
        ({"messages": [{"role": "user"}], "label": "y"}, "message 1: 'content' is missing"),
        ({"messages": [{"role": "user", "content": " "}], "label": "y"}, "message 1: 'content' is empty"),
        ({"item": "x", "label": {"part": "pump"}}, "found dict; write it as a string, as json.dumps gives it"),
        ({"item": "x", "label": True}, "found bool; write it as a string"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_row_is_named(tmp_path: Path, tokenizer: Tokenizer, row: object, what: str) -> None:
    path = write(tmp_path / "d.jsonl", ROW, row)
    with pytest.raises(DataError) as info:
        load_examples(path, tokenizer)
    assert str(info.value).startswith(f"{path}:2: ")
    assert what in str(info.value) and "\n" not in str(info.value)


def test_gzip_by_suffix(tmp_path: Path, tokenizer: Tokenizer) -> None:
    plain = load_examples(write(tmp_path / "d.jsonl", ROW, ROW), tokenizer)
    assert list(load_examples(write(tmp_path / "d.jsonl.gz", ROW, ROW), tokenizer)) == list(plain)


@pytest.mark.parametrize("damage", ["cut", "changed", "plain"])
def test_a_damaged_gzip_file(tmp_path: Path, tokenizer: Tokenizer, damage: str) -> None:
    path = write(tmp_path / "d.jsonl.gz", *[{**ROW, "item": f"{ROW['item']} {i}"} for i in range(50)])
    whole = path.read_bytes()
    broken = {"cut": whole[:-20], "changed": whole[:-6] + b"\0\0" + whole[-4:], "plain": b'{"item": "x"}\n'}
    path.write_bytes(broken[damage])
    with pytest.raises(DataError, match=f"{path}: not a whole gzip file") as info:
        load_examples(path, tokenizer)
    assert "\n" not in str(info.value)


def test_one_row_will_do_for_validation(tmp_path: Path, tokenizer: Tokenizer) -> None:
    assert len(load_examples(write(tmp_path / "d.jsonl", ROW), tokenizer, min_rows=1)) == 1
    with pytest.raises(DataError, match="no rows; give at least 1"):
        load_examples(write(tmp_path / "e.jsonl"), tokenizer, min_rows=1)


def test_a_template_that_refuses_a_row_names_its_line(tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    for file in tiny_tokenizer_dir.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    template = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}x"
    (tmp_path / "chat_template.jinja").write_text(template)
    path = write(tmp_path / "d.jsonl", ROW, {"messages": CHAT, "label": "no"})
    with pytest.raises(DataError, match=f"{path}:2: the chat template failed: no system"):
        load_examples(path, Tokenizer.from_pretrained(tmp_path))
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(TokenizerError, match="has no chat template"):
        load_examples(path, Tokenizer.from_pretrained(tmp_path))
