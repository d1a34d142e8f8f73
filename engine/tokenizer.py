"""Text to ids and back: the `tokenizers` library and the model's chat template, giving transformers' ids."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer as Backend

from alorakit.engine.errors import RequestError, TokenizerError
from alorakit.engine.marks import Marks, Piece
from alorakit.engine.tokenizer_files import TokenizerFiles, checked_text, read_tokenizer_files

if TYPE_CHECKING:
    from alorakit.engine.chat_template import ChatTemplate

Message = Mapping[str, Any]
"""``role`` and ``content``, and optionally ``token_ids``: the ids this engine generated for the content."""

# Tokens whose text is remembered.
MAX_TEXTS = 1 << 15


class Tokenizer:
    """A model's tokenizer and chat template.

    Attributes:
        eos_token: Text of the end-of-sequence token, or None.
        eos_token_id: Its id, or None.
        bos_token: Text of the beginning-of-sequence token, or None.
        bos_token_id: Its id, or None.
        vocab_size: Number of ids, added tokens included.
        special_ids: Ids that decoding skips.
        byte_ids: Ids of single bytes (SentencePiece's byte fallback), which decode only together with their neighbours.
        chat_template: Text of the chat template, or None.
        text_of: Text of one id, remembered.
        now: Moment that a template sees when it asks for the date (frozen at construction).
        splice_fallbacks: How many messages with ``token_ids`` had to be rendered from their text instead.
    """

    def __init__(self, files: TokenizerFiles, now: datetime | None = None) -> None:
        """Wrap what :func:`read_tokenizer_files` read; most callers want :meth:`from_pretrained`."""
        self._backend = files.backend
        self._name = files.folder.name
        self._special_tokens = files.special_tokens
        self.now = now or datetime.now()
        self._template = _compile(files, self.now)
        self.eos_token = files.special_tokens.get("eos_token")
        self.bos_token = files.special_tokens.get("bos_token")
        self.eos_token_id = self._id_of(self.eos_token)
        self.bos_token_id = self._id_of(self.bos_token)
        self.vocab_size = int(self._backend.get_vocab_size(with_added_tokens=True))
        added = self._backend.get_added_tokens_decoder()
        self.special_ids = frozenset(index for index, token in added.items() if token.special)
        self.byte_ids = _byte_ids(self._backend)
        # A token decoded on its own, as every step does for every row.
        self.text_of = lru_cache(MAX_TEXTS)(lambda token_id: self.decode([token_id]))
        self.splice_fallbacks = 0
        template = files.template or ""
        # As transformers does: a token is the template's to write if it is special or the template spells it.
        self._control_tokens = [
            token.content
            for token in added.values()
            if token.special or (token.content in template and not token.content.isspace())
        ]
        self._added = {token.content: index for index, token in added.items()}
        # SentencePiece-like tokenizers put a space before the first word of a text.
        self._prepends_space = self._plain_pieces("a") != ["a"]

    @classmethod
    def from_pretrained(cls, folder: str | Path, now: datetime | None = None) -> "Tokenizer":
        """Read a model folder's tokenizer files.

        Args:
            folder: Folder with ``tokenizer.json``; ``tokenizer_config.json``, ``special_tokens_map.json`` and
                ``chat_template.jinja`` are read where present.
            now: Local time for templates that ask for the date; default: the time of this call.

        Raises:
            TokenizerError: A file is missing or broken; the message names it.
        """
        return cls(read_tokenizer_files(Path(folder)), now)

    @property
    def chat_template(self) -> str | None:
        """Text of the chat template, or None if the model has none."""
        return self._template.source if self._template else None

    @property
    def template_variables(self) -> frozenset[str]:
        """Names that the chat template reads and no caller gives it as a matter of course."""
        return self._template.variables if self._template else frozenset()

    def encode(self, text: str, add_special_tokens: bool = True, untrusted: bool = False) -> list[int]:
        """Token ids of ``text``.

        Args:
            text: Any text.
            add_special_tokens: Whether to add what the model expects around a text (usually BOS).
            untrusted: Whether special-token text inside ``text`` is encoded as ordinary text.

        Raises:
            TokenizerError: Not valid Unicode text; or ``untrusted``, and this vocabulary cannot spell a special token
                as ordinary text.
        """
        checked_text(text)
        if untrusted:
            marks = Marks(self._control_tokens)
            pieces = marks.split(marks.protect(text))
            if any(piece.literal for piece in pieces):
                before, after = self._surroundings() if add_special_tokens else ([], [])
                return [*before, *self._encode_pieces(pieces, {}), *after]
        return list(self._backend.encode(text, add_special_tokens=add_special_tokens).ids)

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Text of ``ids``; bytes that are not UTF-8 become U+FFFD."""
        return str(self._backend.decode(list(ids), skip_special_tokens=skip_special_tokens))

    def has_text(self, token_id: int) -> bool:
        """Whether an id is a token that decoding does not skip."""
        return token_id not in self.special_ids and self._backend.id_to_token(token_id) is not None

    def to_json(self) -> str:
        """The tokenizer as the text of a ``tokenizer.json``, every added token in it."""
        return str(self._backend.to_str())

    def render(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = False,
        untrusted: bool = False,
        **template_kwargs: Any,
    ) -> list[int]:
        """A chat as token ids: the one place that turns messages into ids.

        The template's text is tokenized whole. A message with ``token_ids`` is spliced in by them, so that a cache of
        what was generated is found again; if the template drops or rewrites that message, or the ids do not spell its
        content, its text is used and :attr:`splice_fallbacks` goes up.

        Args:
            messages: The chat so far.
            add_generation_prompt: Whether to open the assistant's turn at the end.
            untrusted: Whether special-token text inside messages is encoded as ordinary text.
            template_kwargs: Further variables for the template, such as ``tools``.

        Raises:
            RequestError: No messages, or one without role and content.
            TokenizerError: The model has no chat template, or the template fails on these messages.
        """
        marks = Marks(self._control_tokens if untrusted else ())
        plain = [marks.protect(message) for message in _without_ids(messages)]
        variables = marks.protect(template_kwargs)
        known = {i: message["token_ids"] for i, message in enumerate(messages) if message.get("token_ids") is not None}
        own = {i: ids for i, given in known.items() if (ids := self._content_ids(messages[i], given)) is not None}
        text, spliced = self._splice(plain, own, marks, add_generation_prompt, variables)
        self.splice_fallbacks += len(known) - len(spliced)
        return self._encode_pieces(marks.split(checked_text(text, "the chat")), own)

    def render_text(
        self, messages: Sequence[Message], add_generation_prompt: bool = False, **template_kwargs: Any
    ) -> str:
        """A chat as text, as the template writes it; ``token_ids`` play no part. Raises as :meth:`render` does."""
        return self._render_plain(_without_ids(messages), add_generation_prompt, template_kwargs)

    def apply_chat_template(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = False,
        tokenize: bool = True,
        **template_kwargs: Any,
    ) -> list[int] | str:
        """:meth:`render`, or :meth:`render_text` if not ``tokenize``, under the name transformers uses."""
        if tokenize:
            return self.render(messages, add_generation_prompt, **template_kwargs)
        return self.render_text(messages, add_generation_prompt, **template_kwargs)

    def _render_plain(self, messages: Sequence[Message], add_generation_prompt: bool, kwargs: Mapping[str, Any]) -> str:
        if self._template is None:
            raise TokenizerError(
                f"model '{self._name}' has no chat template; use an instruct model, put a chat_template.jinja into its "
                "folder, or pass prompts as text"
            )
        variables = {"tools": None, "documents": None, **self._special_tokens, **kwargs}
        return self._template.render(messages, add_generation_prompt, **variables)

    def _splice(
        self,
        plain: Sequence[Message],
        own: Mapping[int, list[int]],
        marks: Marks,
        add_generation_prompt: bool,
        variables: Mapping[str, Any],
    ) -> tuple[str, list[int]]:
        """The rendering with sentinels for as many of the messages ``own`` as the template leaves whole."""
        expected = self._render_plain(plain, add_generation_prompt, variables)
        contents = [message["content"] for message in plain]

        def attempt(chosen: Sequence[int]) -> str | None:
            trial = [{**m, "content": marks.sentinel(i)} if i in chosen else m for i, m in enumerate(plain)]
            try:
                text = self._render_plain(trial, add_generation_prompt, variables)
            except TokenizerError:  # the template looks into the content; the plain rendering worked
                return None
            return text if marks.restore(text, contents) == expected else None

        chosen = list(own)
        if chosen and (text := attempt(chosen)) is not None:
            return text, chosen
        # Some templates rewrite only some messages (older turns, say): find those, and splice the others.
        chosen = [i for i in chosen if attempt([i]) is not None]
        if chosen and (text := attempt(chosen)) is not None:
            return text, chosen
        return expected, []

    def _content_ids(self, message: Message, ids: Sequence[int]) -> list[int] | None:
        """The ids that spell the message's content and no more, or None if they do not spell it."""
        body = list(ids)
        if body and (body[-1] in self.special_ids or self.decode(body) != message["content"]):
            body.pop()  # the token that ended generation; the template writes the end of a turn itself
        return body if self.decode(body) == message["content"] else None

    def _encode_pieces(self, pieces: Sequence[Piece], own: Mapping[int, list[int]]) -> list[int]:
        ids: list[int] = []
        for piece in pieces:
            if piece.message is not None:
                ids += own[piece.message]
            else:
                ids += self._encode_piece(piece, first=not ids)
        return ids

    def _encode_piece(self, piece: Piece, first: bool) -> list[int]:
        if self._prepends_space and not first:
            # In the middle of a text no space is prepended: encode after a newline, then drop the newline.
            newline, ids = self._ids("\n", piece.literal), self._ids("\n" + piece.text, piece.literal)
            if ids[: len(newline)] == newline:
                return ids[len(newline) :]
        return self._ids(piece.text, piece.literal)

    def _ids(self, text: str, literal: bool) -> list[int]:
        if not literal:
            return list(self._backend.encode(text, add_special_tokens=False).ids)
        ids = [token.id for part in self._plain_pieces(text) for token in self._backend.model.tokenize(part)]
        if self._added.get(text) in ids:
            raise TokenizerError(
                f"{text!r} cannot be spelled as ordinary text by this vocabulary; remove it from the message"
            )
        return ids

    def _plain_pieces(self, text: str) -> list[str]:
        """``text`` normalized and pre-tokenized, with no added token recognized in it."""
        if self._backend.normalizer is not None:
            text = self._backend.normalizer.normalize_str(text)
        if self._backend.pre_tokenizer is None:
            return [text]
        return [part for part, _ in self._backend.pre_tokenizer.pre_tokenize_str(text)]

    def _surroundings(self) -> tuple[list[int], list[int]]:
        """The ids that ``add_special_tokens`` puts before and after a text."""
        whole = self._backend.encode("a", add_special_tokens=True).ids
        bare = self._backend.encode("a", add_special_tokens=False).ids
        start = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
        return whole[:start], whole[start + len(bare) :]

    def _id_of(self, token: str | None) -> int | None:
        return None if token is None else self._backend.token_to_id(token)


def _compile(files: TokenizerFiles, now: datetime) -> "ChatTemplate | None":
    if not files.template:
        return None
    from alorakit.engine.chat_template import ChatTemplate  # and jinja2, which a model without a template needs not

    return ChatTemplate(files.template, now, files.template_source)


def _without_ids(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The messages as a template sees them; keys whose value is None are dropped, as transformers does."""
    if not messages:
        raise RequestError("the chat has no messages; pass at least one {'role': ..., 'content': ...}")
    plain = []
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
            raise RequestError(f"message {index} is {message!r:.80}; expected a mapping with 'role' and 'content'")
        plain.append({key: value for key, value in message.items() if key != "token_ids" and value is not None})
    return plain


def _byte_ids(backend: Backend) -> frozenset[int]:
    """Ids of ``<0x00>`` to ``<0xFF>`` if the decoder turns them into bytes."""
    if backend.decoder is None or b"ByteFallback" not in backend.decoder.__getstate__():
        return frozenset()
    ids = (backend.token_to_id(f"<0x{byte:02X}>") for byte in range(256))
    return frozenset(index for index in ids if index is not None)
