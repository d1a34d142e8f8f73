"""What adapters are called where nobody gave them a name."""

from pathlib import Path

from alorakit.bindings.paths import existing

_KINDS = ("alora", "lora")


def adapter_name(place: str | Path) -> str:
    """The name of an adapter by where it lies.

    A folder's own name; of the Hub's ``owner/name[/folder][@revision]`` the last part, or in a collection's
    ``owner/name/<intrinsic>/<base>/<alora|lora>`` the intrinsic.

    Args:
        place: Folder or Hub name.
    """
    path = Path(place)
    if existing(place) is None:
        path = Path(str(place).partition("@")[0])
        if len(path.parts) >= 5 and path.name in _KINDS and not path.is_absolute():
            return path.parts[-3]
    return path.name if path.name not in ("", "..") else path.resolve().name
