"""Adapters on the command line: ``DIR``, ``name=DIR``, and the same with names of the Hub."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from alorakit.bindings.adapter_names import adapter_name
from alorakit.bindings.paths import existing
from alorakit.engine.adapter_config import AdapterConfig
from alorakit.engine.errors import ConfigError
from alorakit.engine.pretrained import resolve_adapter

if TYPE_CHECKING:
    from alorakit.engine.adapters import AdapterInfo
    from alorakit.engine.engine import Engine

ADAPTER_HELP = "Adapter: folder or Hub name (org/name, org/name/its/folder, org/name@revision)"


def split_name(text: str) -> tuple[str, str]:
    """Name and place of ``name=place``; of a place alone, the name that :func:`adapter_name` gives it.

    Raises:
        ConfigError: One of the two is empty.
    """
    name, equals, place = text.partition("=")
    if not equals or existing(text) is not None:  # a folder's name may hold an equals sign
        name, place = adapter_name(text), text
    if not name.strip() or not place.strip():
        raise ConfigError(f"adapter {text!r} must be a folder or name=folder, neither of them empty")
    return name, place


def resolve_adapters(given: Iterable[str]) -> dict[str, Path]:
    """Folders by name, those of the Hub fetched; their configuration is read, so that a wrong one is told of early.

    Raises:
        ConfigError: A name is given twice.
        AdapterError: One is no adapter, or cannot be fetched.
    """
    folders: dict[str, Path] = {}
    for text in given:
        name, place = split_name(text)
        if name in folders:
            raise ConfigError(f"two adapters are called {name!r}; give them names: --adapter NAME=DIR")
        folders[name] = resolve_adapter(place)
        AdapterConfig.load(folders[name])
    return folders


def add_adapters(engine: "Engine", folders: dict[str, Path]) -> list["AdapterInfo"]:
    """Register adapters in an engine.

    Raises:
        AdapterError: One cannot be loaded, or does not fit the base model.
    """
    return [engine.add_adapter(name, folder) for name, folder in folders.items()]
