"""Reads the tokenizer files of a model folder, with the meaning transformers gives them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from alorakit.engine.errors import TokenizerError
from alorakit.engine.files import read_json_object


@dataclass(frozen=True)
class TokenizerFiles:
    """What a model folder says about its tokenizer.

    Attributes:
        folder: The model folder.
        backend: The tokenizer proper, with every added token in it and neither truncation nor padding.
        special_tokens: ``bos_token``, ``eos_token`` and the like, by name; only those that are set.
        template: Text of the chat template, or None.
        template_source: Where the template was found, for messages.
    """

    folder: Path
    backend: Backend
    special_tokens: Mapping[str, str]
    template: str | None
    template_source: str


def read_tokenizer_files(folder: Path) -> TokenizerFiles:
    """Read ``tokenizer.json`` and, where present, the files beside it.

    What surrounds a text is ``tokenizer.json``'s to say: like transformers, this ignores ``add_bos_token`` beside it.

    Raises:
        TokenizerError: A file is missing or broken; the message names it.
    """
    backend = _read_backend(folder / "tokenizer.json")
    config = {**_read_json(folder / "special_tokens_map.json"), **_read_json(folder / "tokenizer_config.json")}
    named = {key: _as_added_token(key, value) for key, value in config.items() if key.endswith("_token")}
    named_tokens = {key: token for key, token in named.items() if token is not None}
    _add_missing_tokens(backend, _listed_tokens(folder, config), named_tokens)
    special_tokens = {key: token.content for key, token in named_tokens.items()}
    template, source = find_chat_template(folder, config) or (None, "")
    return TokenizerFiles(folder, backend, special_tokens, template, source)


def find_chat_template(folder: Path, config: Mapping[str, Any]) -> tuple[str, str] | None:
    """The model's chat template and where it was found, or None if it has none.

    Args:
        folder: Model folder; ``chat_template.jinja`` in it wins.
        config: Contents of ``tokenizer_config.json``: a string, or a list of named templates of which ``default`` is
            taken.

    Raises:
        TokenizerError: The file cannot be read, or the named templates have no ``default``.
    """
    path = folder / "chat_template.jinja"
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8"), str(path)
        except (OSError, UnicodeDecodeError) as exc:
            raise TokenizerError(f"{path}: not readable as UTF-8 text ({exc}); restore the file") from exc
    value = config.get("chat_template")
    if value is None:
        return None
    where = f"{folder / 'tokenizer_config.json'}, key chat_template"
    if isinstance(value, list):
        named = {str(entry.get("name")): entry.get("template") for entry in value if isinstance(entry, dict)}
        value = named.get("default")
        if value is None:
            raise TokenizerError(f"{where}: no template named 'default' among {sorted(named)}; name one so")
    if not isinstance(value, str):
        raise TokenizerError(f"{where}: expected text or a list of named templates, found {type(value).__name__}")
    return value, where


def checked_text(text: str, where: str = "the text") -> str:
    """``text``, if it can be tokenized.

    Raises:
        TokenizerError: It is no text, or holds a lone surrogate, which UTF-8 cannot spell.
    """
    if not isinstance(text, str):
        raise TokenizerError(f"{where} is {text!r:.80}, not text; pass a str")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as exc:
        raise TokenizerError(
            f"{where} is not valid Unicode text: lone surrogate {text[exc.start]!a} at character {exc.start}; remove it"
        ) from exc
    return text


def _read_backend(path: Path) -> Backend:
    if not path.is_file():
        raise TokenizerError(
            f"{path}: no such file; a model folder needs a tokenizer.json (saving its tokenizer with a current "
            "transformers writes one)"
        )
    try:
        backend = Backend.from_file(str(path))
    except Exception as exc:  # the library raises bare Exception
        raise TokenizerError(f"{path}: not a readable tokenizer ({exc}); fetch the file again") from exc
    backend.no_truncation()
    backend.no_padding()
    return backend


def _read_json(path: Path) -> dict[str, Any]:
    return read_json_object(path, TokenizerError, "fetch the file again") if path.is_file() else {}


def _as_added_token(key: str, value: Any) -> AddedToken | None:
    if isinstance(value, str):
        return AddedToken(checked_text(value, key), special=True, normalized=False)
    if isinstance(value, dict) and isinstance(value.get("content"), str):
        flags = {key: bool(value.get(key, False)) for key in ("single_word", "lstrip", "rstrip", "normalized")}
        return AddedToken(checked_text(value["content"], key), special=bool(value.get("special", True)), **flags)
    return None


def _listed_tokens(folder: Path, config: Mapping[str, Any]) -> list[AddedToken]:
    """The tokens of ``added_tokens_decoder``, in order of their ids."""
    key, listed = "added_tokens_decoder", config.get("added_tokens_decoder") or {}
    ids = list(listed) if isinstance(listed, dict) else [""]
    tokens = [_as_added_token(key, listed[i]) for i in sorted(ids, key=int)] if all(map(str.isdecimal, ids)) else [None]
    if None in tokens:
        raise TokenizerError(
            f"{folder / 'tokenizer_config.json'}: {key}={listed!r:.80} must map ids to tokens; fetch the file again"
        )
    return [token for token in tokens if token is not None]


def _add_missing_tokens(backend: Backend, listed: list[AddedToken], named: Mapping[str, AddedToken]) -> None:
    """Add the tokens that only ``tokenizer_config.json`` knows."""
    present = {token.content for token in backend.get_added_tokens_decoder().values()}
    missing = [token for token in listed if token.content not in present]
    present |= {token.content for token in missing}
    for token in named.values():
        if token.content not in present:
            present.add(token.content)
            missing.append(AddedToken(token.content, special=True, normalized=False))
    if missing:
        backend.add_tokens(missing)
