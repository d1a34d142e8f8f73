"""Public names have docstrings that name what they take and raise."""

import importlib.util
import sys

import pytest

from docs import docstrings
from tests.training.mellea_reader import FOLDER

if (FOLDER / "mellea").is_dir() and str(FOLDER) not in sys.path:
    sys.path.append(str(FOLDER))


@pytest.mark.parametrize("module", docstrings.MODULES)
def test_docstrings_say_what_they_must(module: str) -> None:
    if module == "alorakit.bindings.mellea" and importlib.util.find_spec("mellea") is None:
        pytest.skip("Mellea is not installed")
    assert list(docstrings.problems(module)) == []


def test_what_is_missing_is_seen(tmp_path, monkeypatch) -> None:
    source = '''
class Bare:
    """A class."""

    def told(self, value):
        """Take ``value``.

        Args:
            value: Any.
        """

    def untold(self, value, *, other: int = 0) -> int:
        """Do it.

        Args:
            value: Any.
        """
        raise KeyError(value)

    def silent(self): ...

    def elsewhere(self, value):
        """As :meth:`told`."""


class Heir(Bare):
    """Another."""

    def untold(self, value, *, other: int = 0) -> int:
        """Do it well; ``other`` helps, KeyError is raised.

        Returns:
            What is asked.
        """
        raise KeyError(other)


def function(value): ...
'''
    (tmp_path / "undocumented_module.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(docstrings, "STRICT", ("undocumented_module",))
    prefix = "alorakit"
    module = __import__("undocumented_module")
    for cls in (module.Bare, module.Heir):
        cls.__module__ = prefix
    monkeypatch.setattr(docstrings, "public_names", lambda name: {"Bare": module.Bare, "function": module.function})
    assert list(docstrings.problems("undocumented_module")) == [
        "undocumented_module: no docstring",
        "undocumented_module.Bare.untold: argument other is not described",
        "undocumented_module.Bare.untold: KeyError is not described",
        "undocumented_module.Bare.untold: no Returns section",
        "undocumented_module.Bare.silent: no docstring",
        "undocumented_module.function: no docstring",
    ]
    monkeypatch.setattr(docstrings, "public_names", lambda name: {"Heir": module.Heir})
    assert list(docstrings.problems("undocumented_module"))[1:] == ["undocumented_module.Heir.silent: no docstring"]
