import subprocess
import sys
from importlib.metadata import version

import pytest

import alorakit

PUBLIC = {
    "AlorakitError",
    "AsyncEngine",
    "ChatContext",
    "CustomIntrinsicAdapter",
    "Engine",
    "EngineBackend",
    "EngineConfig",
    "MelleaSession",
    "SamplingParams",
    "__version__",
    "check",
    "req",
}


def test_public_names_are_these() -> None:
    assert set(alorakit.__all__) == PUBLIC == set(dir(alorakit))


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_public_name_exists(name: str) -> None:
    assert getattr(alorakit, name) is not None


def test_version_is_the_distributions() -> None:
    assert alorakit.__version__ == version("alorakit")


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'engin'; public names are .*Engine"):
        _ = alorakit.engin  # type: ignore[attr-defined]


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, alorakit; alorakit.AlorakitError; print('torch' in sys.modules, 'transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
