"""What an upload would put where: an adapter folder, read and checked, and laid out as a repository."""

import json
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import yaml

from alorakit.bindings.cli.card_scan import check_no_secret, data_warnings
from alorakit.bindings.paths import existing
from alorakit.bindings.yaml_errors import NOT_YAML
from alorakit.engine.adapter_loading import check_adapter
from alorakit.engine.adapters import AdapterInfo
from alorakit.engine.errors import AdapterError, ConfigError
from alorakit.engine.hub import is_repo_id
from alorakit.engine.manifest import MANIFEST_NAME
from alorakit.training.adapter_folder import CARD_NAME, CONFIG_NAME, FILES, PICTURE_NAME
from alorakit.training.card_mark import is_untouched, marked
from alorakit.training.io_yaml import IO_YAML_NAME

COLLECTION_CARD = "INTRINSIC_README.md"  # where Mellea's trainer puts the card of a whole repository
_TEXTS = (CARD_NAME, MANIFEST_NAME, IO_YAML_NAME, CONFIG_NAME, "training.json", COLLECTION_CARD)
_IO_REQUIRED = {"model", "response_format", "transformations"}
_IO_OPTIONAL = {"name", "instruction", "parameters", "sentence_boundaries", "docs_as_message", "logprobs_workaround"}


@dataclass(frozen=True)
class Plan:
    """What goes into a repository.

    Attributes:
        kind: ``"alora"`` or ``"lora"``.
        base_model: Hub id of the base model.
        folder: The adapter's folder in the repository; empty: its root.
        files: Contents by path in the repository.
        root_card: In a collection, what its root's ``README.md`` is to be if it has none; else None.
        stale: Paths of files that an earlier adapter may have left there and that this one does not have.
        warnings: What a user should look at before the world does.
        left_out: What else lies in the local folder.
    """

    kind: str
    base_model: str
    folder: str
    files: dict[str, bytes]
    root_card: bytes | None
    stale: tuple[str, ...]
    warnings: tuple[str, ...]
    left_out: tuple[str, ...]


def plan_upload(folder: Path, intrinsic: str | None, io_yaml: Path | None, basemodel: str | None) -> Plan:
    """Read an adapter folder, check all of it, and lay it out. Nothing is written.

    Args:
        folder: The adapter folder.
        intrinsic: Name of the adapter function, for the layout of collections; None: the repository's root.
        io_yaml: Mellea's contract; None: the folder's own.
        basemodel: Hub id to name as the base model instead of what the folder names.

    Raises:
        AdapterError: The folder holds no sound adapter, no card, or changed meanwhile.
        ConfigError: The base model has no Hub id, or ``io.yaml`` is none.
        DataError: A text holds a secret.
    """
    before = _stamps(folder)
    info = check_adapter(folder).info
    files = {name: (folder / name).read_bytes() for name in FILES if (folder / name).is_file()}
    collection_card = (folder / COLLECTION_CARD).read_bytes() if (folder / COLLECTION_CARD).is_file() else None
    if _stamps(folder) != before:
        raise AdapterError(f"{folder}: was changed while it was read; wait for what writes it, then upload again")
    _check_card(folder, files.get(CARD_NAME))
    if io_yaml is not None:
        files[IO_YAML_NAME] = _read_contract(io_yaml)
    elif IO_YAML_NAME in files:
        _check_contract(folder / IO_YAML_NAME, files[IO_YAML_NAME])
    elif intrinsic is not None:
        raise ConfigError(f"--intrinsic needs an io.yaml, and {folder} has none; give it with --io-yaml")
    base = _base_model(info, basemodel)
    files = {name: _renamed(name, content, info, base) for name, content in files.items()}
    texts = {name: _text(folder / name, content) for name, content in files.items() if name in _TEXTS}
    if collection_card is not None and intrinsic is not None:
        texts[COLLECTION_CARD] = _text(folder / COLLECTION_CARD, collection_card)
    check_no_secret(texts)
    inside = "" if intrinsic is None else f"{intrinsic}/{PurePosixPath(base).name}/{info.kind}"
    laid_out = {_join(inside, name): content for name, content in files.items()}
    root_card = None
    if inside and collection_card is not None:
        laid_out[CARD_NAME] = collection_card
    elif inside:
        picture = f"]({PICTURE_NAME})"
        root_card = texts[CARD_NAME].replace(picture, f"]({inside}/{PICTURE_NAME})").encode()
    known = {*FILES, *([COLLECTION_CARD] if inside else [])}
    return Plan(
        kind=info.kind,
        base_model=base,
        folder=inside,
        files=laid_out,
        root_card=root_card,
        stale=tuple(_join(inside, name) for name in FILES if name not in files),
        warnings=(*_gaps(files), *data_warnings(texts)),
        left_out=tuple(sorted(path.name for path in folder.iterdir() if path.name not in known)),
    )


def _stamps(folder: Path) -> list[tuple[str, int, int]]:
    paths = [folder / name for name in (*FILES, COLLECTION_CARD)]
    return [(path.name, path.stat().st_mtime_ns, path.stat().st_size) for path in paths if path.is_file()]


def _check_card(folder: Path, content: bytes | None) -> None:
    remedy = f"write it with: m alora add-readme {folder}"
    if content is None:
        raise AdapterError(f"{folder}: no {CARD_NAME}, the model card; {remedy}")
    _, fence, rest = _text(folder / CARD_NAME, content).partition("---\n")
    try:
        about = yaml.safe_load(rest.partition("\n---")[0]) if fence else None
    except NOT_YAML as exc:
        raise AdapterError(f"{folder / CARD_NAME}: its first lines are no YAML ({exc}); {remedy} --force") from exc
    if not isinstance(about, dict):
        raise AdapterError(f"{folder / CARD_NAME}: does not begin with YAML between two lines '---'; {remedy} --force")


def _read_contract(given: Path) -> bytes:
    path = existing(given)
    if path is None or not path.is_file():
        raise ConfigError(f"--io-yaml {given}: no such file; give Mellea's contract for the adapter")
    try:
        content = path.read_bytes()
    except OSError as exc:
        raise ConfigError(f"--io-yaml {given}: cannot be read ({exc.strerror})") from exc
    _check_contract(path, content)
    return content


def _check_contract(path: Path, content: bytes) -> None:
    """See that Mellea will take it: it refuses a missing key and an unknown one."""
    try:
        contract = yaml.safe_load(content)
    except NOT_YAML as exc:
        raise ConfigError(f"{path}: is no YAML ({exc}); correct it, or give another with --io-yaml") from exc
    keys = {str(key) for key in contract} if isinstance(contract, dict) else set()
    if missing := sorted(_IO_REQUIRED - keys):
        raise ConfigError(f"{path}: has no {', '.join(missing)}, without which Mellea refuses it; add them")
    if unknown := sorted(keys - _IO_REQUIRED - _IO_OPTIONAL):
        raise ConfigError(f"{path}: Mellea knows no {', '.join(unknown)} and refuses the file; take them out")


def _base_model(info: AdapterInfo, basemodel: str | None) -> str:
    named = info.base_model or (info.manifest.base_model if info.manifest else "")
    base = basemodel or named
    here = existing(base)
    if not base or not is_repo_id(base) or ("/" not in base and here is not None and here.is_dir()):
        told = f"its base model {base!r}" if base else "no base model"
        raise ConfigError(
            f"the adapter names {told}, which nobody finds on the Hub; give its id: --basemodel org/model"
        )
    return base


def _renamed(name: str, content: bytes, info: AdapterInfo, base: str) -> bytes:
    """A file's content with the base model's Hub id in place of what the folder calls it."""
    key = {CONFIG_NAME: "base_model_name_or_path", MANIFEST_NAME: "base_model"}.get(name)
    if key is not None:
        raw = json.loads(content)
        return content if raw.get(key) == base else (json.dumps({**raw, key: base}, indent=2) + "\n").encode()
    if name == CARD_NAME:
        for old in {info.base_model, info.manifest.base_model if info.manifest else ""} - {"", base}:
            untouched = is_untouched(content.decode())
            # As a name of its own only: a folder may be called "base", and the card say "base model".
            named = re.compile(rf"(?<![\w./-]){re.escape(old)}(?![\w/-]|\.\w)")
            content = named.sub(lambda _: base, content.decode()).encode()
            content = marked(content.decode()).encode() if untouched else content
    return content


def _gaps(files: dict[str, bytes]) -> list[str]:
    if MANIFEST_NAME in files:
        return []
    return [f"no {MANIFEST_NAME}: nobody can tell in which layout the adapter is asked, nor its labels"]


def _text(path: Path, content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as exc:
        raise AdapterError(f"{path}: is not UTF-8 text ({exc}); write it again") from exc


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name
