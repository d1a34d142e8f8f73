"""The layer rule: kernels <- engine <- training, bindings; a layer imports only from layers to its left."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ALLOWED = {
    "kernels": {"kernels"},
    "engine": {"engine", "kernels"},
    "training": {"training", "engine", "kernels"},
    "bindings": {"bindings", "engine", "kernels"},
}
FILES = sorted(path for layer in ALLOWED for path in (ROOT / layer).rglob("*.py"))


def imported_modules(source: str, package: str) -> Iterator[str]:
    """Absolute names of everything a module of ``package`` imports; both readings of ``from a import b``."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            base = parents[: len(parents) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def violations(path: str, source: str) -> list[str]:
    """What ``path`` (relative to the root) imports against the rule."""
    layer, *rest = Path(path).parts
    allowed = ALLOWED[layer] | ({"training"} if layer == "bindings" and rest[0] == "cli" else set())
    package = ".".join(["alorakit", *Path(path).parts[:-1]])
    wrong = []
    for name in imported_modules(source, package):
        parts = name.split(".")
        if parts[0] in ALLOWED:
            wrong.append(f"{path}: bare import of {name}")
        if parts[0] != "alorakit" or len(parts) < 2 or parts[1] not in ALLOWED:
            continue
        if parts[1] not in allowed:
            wrong.append(f"{path}: {layer} imports {name}")
        elif parts[1] == "kernels" and layer != "kernels" and parts[2:3] != ["ops"]:
            wrong.append(f"{path}: {name} is not kernels.ops")
    return wrong


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_layer(path: Path) -> None:
    assert violations(str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("engine/x.py", "from alorakit.training import train"),
        ("engine/x.py", "import alorakit.bindings.cli"),
        ("engine/x.py", "from alorakit.kernels.reference import attention"),
        ("engine/x.py", "from alorakit.kernels import reference"),
        ("engine/x.py", "from ..training import train"),
        ("kernels/x.py", "from alorakit.engine import errors"),
        ("training/x.py", "from alorakit.bindings.session import req"),
        ("bindings/session/x.py", "def f():\n    from alorakit.training import train"),
        ("engine/x.py", "import kernels.ops"),
    ],
)
def test_the_check_sees_a_violation(path: str, source: str) -> None:
    assert len(violations(path, source)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("engine/x.py", "from alorakit.kernels import ops"),
        ("engine/x.py", "from alorakit.kernels.ops import attention\nfrom .errors import AlorakitError"),
        ("bindings/cli/x.py", "from alorakit.training import train"),
        ("bindings/session/x.py", "from alorakit import Engine"),
    ],
)
def test_the_check_lets_the_rest_pass(path: str, source: str) -> None:
    assert violations(path, source) == []
