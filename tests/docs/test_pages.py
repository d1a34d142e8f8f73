"""The documentation holds together: links, code blocks, names, pictures."""

import ast
import importlib
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest

from alorakit.engine import errors
from docs import pages
from docs.draw_architecture import IMPORTS

PAGES = pages.all_pages()
LAYERS = ("kernels", "engine", "training", "bindings", "docs")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(pages.ROOT)))
def test_links_lead_somewhere_and_code_parses(page: Path) -> None:
    assert [*pages.broken_links(page), *pages.broken_blocks(page)] == []


def test_what_is_broken_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    (tmp_path / "other.md").write_text("# A `b`, c\n## A b c\n```sh\n# no heading\n```\n", encoding="utf-8")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](other.md#a-b-c) [b](other.md#a-b-c-1) [c](other.md#no-heading) [d](gone.md) `[e](f)` [g](#none)\n"
        "<!-- run -->\n```python\nif:\n```\n```sh\nm 'open\n```\n```json\n{}\n```\n```klingon\n```\n",
        encoding="utf-8",
    )
    gone = ["no heading other.md#no-heading", "no file gone.md", "no heading #none"]
    assert list(pages.broken_links(page)) == [f"page.md: {what}" for what in gone]
    assert [problem.split(":")[1] for problem in pages.broken_blocks(page)] == [
        " block 1 (python)", " block 2 (sh)", " block 4 (klingon)",
    ]  # fmt: skip
    assert [block.mark for block in pages.blocks(page.read_text(encoding="utf-8"))] == ["run", "", "", ""]


@lru_cache
def members() -> dict[str, set[str]]:
    """What belongs to each class of the project: methods, fields, and attributes that methods set."""
    found: dict[str, set[str]] = {}
    for path in (path for layer in LAYERS for path in (pages.ROOT / layer).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, set()).update(names_in(node))
    return found


def names_in(cls: ast.ClassDef) -> Iterator[str]:
    for node in ast.walk(cls):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.AnnAssign | ast.Assign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                yield from (name.attr for name in ast.walk(target) if isinstance(name, ast.Attribute))
                yield from (name.id for name in ast.walk(target) if isinstance(name, ast.Name))


@pytest.mark.parametrize("name", ["architecture.md", "concepts.md", "training.md"])
def test_names_and_files_are_there(name: str) -> None:
    text, known = (pages.ROOT / "docs" / name).read_text(encoding="utf-8"), members()
    dotted = set(re.findall(r"`([A-Z]\w+)\.(?!md)(\w+)(?:\(.*?\))?`", text))
    assert {f"{cls}.{member}" for cls, member in dotted if cls in known and member not in known[cls]} == set()
    assert {cls for cls, _ in dotted} <= known.keys()
    files = set(re.findall(r"`((?:kernels|engine|training|bindings|tests|docs)/[\w/*]+\.py)`", text))
    assert {file for file in files if not list(pages.ROOT.glob(file))} == set()
    assert dotted or files or name == "training.md"


def test_the_picture_shows_the_imports_as_they_are() -> None:
    shown = {*IMPORTS, *(name for targets in IMPORTS.values() for name in targets)}
    found: dict[str, set[str]] = {}
    for folder in shown - {"training"}:
        for path in (pages.ROOT / "bindings" / folder).rglob("*.py"):
            for module in re.findall(r"(?:from|import) alorakit\.([\w.]+)", path.read_text(encoding="utf-8")):
                target = module.removeprefix("bindings.").split(".")[0]
                if target in shown - {folder}:
                    found.setdefault(folder, set()).add(target)
    assert found == {folder: set(targets) for folder, targets in IMPORTS.items()}


@pytest.mark.parametrize("module", ["draw", "draw_concepts", "draw_architecture"])
def test_pictures_are_as_their_scripts_draw_them(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script, draw = importlib.import_module(f"docs.{module}"), importlib.import_module("docs.draw")
    monkeypatch.setattr(draw, "FOLDER", tmp_path)
    for name in re.findall(r"\n    (\w+)\(\)$", Path(str(script.__file__)).read_text(encoding="utf-8"), re.MULTILINE):
        getattr(script, name)()
    drawn = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    assert drawn == {name: (pages.ROOT / "docs" / name).read_text(encoding="utf-8") for name in drawn}
    assert drawn.keys() <= {Path(target).name for page in PAGES for target in pages.links(page.read_text("utf-8"))}
    assert drawn


def test_every_error_is_in_the_table() -> None:
    text = (pages.ROOT / "docs" / "howto" / "limits-and-errors.md").read_text(encoding="utf-8")
    table = dict(re.findall(r"^\| `(\w+)` \| `(\w+)` \|", text, re.MULTILINE))
    kinds = {name: kind for name, kind in vars(errors).items() if isinstance(kind, type)}
    own = {name: kind for name, kind in kinds.items() if issubclass(kind, errors.AlorakitError)}
    del own["AlorakitError"]
    assert table.keys() == own.keys()
    for name, kind in own.items():
        assert table[name] in {base.__name__ for base in kind.__bases__}


def test_the_example_of_the_cache_key() -> None:
    from alorakit.engine.block_tree import BlockTree, Extra

    tree = BlockTree(8, 4)
    blocks = tree.allocate(4, None)
    assert blocks is not None
    first = tree.insert(tree.root, tuple(b"abcd"), None, blocks[0])
    assert first is not None
    second = tree.insert(first, tuple(b"efgh"), None, blocks[1])
    assert second is not None
    tree.insert(second, tuple(b"ij"), None, blocks[2])
    tree.insert(first, tuple(b"efgX"), Extra("digest of X", 7), blocks[3])
    tree.check_integrity()
    prompt = list(b"abcdefgY")
    found = tree.match(prompt, Extra("digest of Y", 7), len(prompt) - 1)
    assert (len(found.nodes), found.partial_rows, found.num_tokens) == (1, 3, 7)
    assert tree.match(prompt, Extra("digest of a LoRA", 0), len(prompt) - 1).num_tokens == 0
