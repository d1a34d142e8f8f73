"""/v1/completions."""

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from alorakit.bindings.server.access import Access
from alorakit.bindings.server.answering import Answering, Choice
from alorakit.bindings.server.errors import HttpError
from alorakit.bindings.server.logprobs import Logprobs, text_logprobs
from alorakit.bindings.server.openapi import ERRORS
from alorakit.bindings.server.sampling import sampling_params, structured_of, token_limit
from alorakit.bindings.server.schemas import EVENTS, MAX_SAMPLES
from alorakit.bindings.server.schemas_completions import Completion, CompletionRequest
from alorakit.bindings.server.state import ServerState, state_of
from alorakit.engine.request import RequestOutput, StreamChunk

if TYPE_CHECKING:
    from alorakit.engine.async_engine import AsyncStream

router = APIRouter()

DEFAULT_TOKENS = 16  # OpenAI's


@router.post("/v1/completions", response_model=Completion, responses={**ERRORS, **EVENTS}, tags=["completions"])
async def completions(
    body: CompletionRequest, request: Request, state: Annotated[ServerState, Depends(state_of)]
) -> Response:
    """Go on with texts, or with token ids."""
    return await TextAnswering(state, body, request.scope["alorakit.access"]).respond(request)


class TextAnswering(Answering):
    """Prompts and what follows them."""

    prefix, kind, chunk_kind = "cmpl-", "text_completion", "text_completion"
    body: CompletionRequest

    def __init__(self, state: ServerState, body: CompletionRequest, access: Access) -> None:
        """For a request to the server.

        Raises:
            HttpError: The request is not usable.
        """
        super().__init__(state, body, access)
        given = body.prompt
        prompts: list[Any] = list(given) if isinstance(given, list) and not isinstance(given[0], int) else [given]
        if len(prompts) * self.n > MAX_SAMPLES:
            raise HttpError(
                400, f"{len(prompts)} prompts with n={self.n} are more than {MAX_SAMPLES} answers; ask for fewer", "n"
            )
        self._prompts = prompts
        self._ids: list[list[int]] = []
        self._echoed: list[str] = []
        self._sent: dict[int, tuple[int, int]] = {}
        if state.config.log_prompts:
            access.texts["prompt"] = given

    def streams(self) -> "list[AsyncStream]":
        """See :class:`Answering`."""
        body, tokenizer = self.body, self.engine.tokenizer
        # A prompt is the client's own from end to end, and may hold a chat that it has rendered itself.
        self._ids = [p if isinstance(p, list) else tokenizer.encode(p) for p in self._prompts]
        self._echoed = [p if isinstance(p, str) else tokenizer.decode(p, False) for p in self._prompts]
        limit = token_limit(self.state.config, self.engine, body.max_tokens, "max_tokens", DEFAULT_TOKENS)
        read = body.logprobs if body.echo else None
        params = sampling_params(body, limit, structured_of(body), logprobs=body.logprobs, prompt_logprobs=read)
        adapter = None if self.info is None else self.info.name
        return [stream for ids in self._ids for stream in self.engine.streams(ids, params, adapter)]

    def opening(self, index: int) -> Choice | None:
        """The prompt, where it is asked for."""
        if not self.body.echo:
            return None
        logprobs = None
        if self.body.logprobs is not None:
            ids = self._ids[index // self.n]
            found = [None, *self._streams[index].prompt_logprobs]
            logprobs = text_logprobs(self.engine.tokenizer, ids, found, self.body.logprobs, 0)
        return _choice(index, self._echoed[index // self.n], logprobs)

    def delta(self, index: int, chunk: StreamChunk, stream: "AsyncStream") -> Choice | None:
        """See :class:`Answering`."""
        logprobs = None
        if self.body.logprobs is not None and chunk.token_ids:
            start, offset = self._sent.get(index, (0, self._offset(index)))
            end = start + len(chunk.token_ids)
            found = stream.logprobs[start:end]
            logprobs = text_logprobs(self.engine.tokenizer, chunk.token_ids, found, self.body.logprobs, offset)
            self._sent[index] = (end, offset + sum(map(len, logprobs["tokens"])))
        return _choice(index, chunk.text, logprobs) if chunk.text or logprobs else None

    def closing(self, index: int, output: RequestOutput) -> list[Choice]:
        """See :class:`Answering`."""
        return [_choice(index, "", reason=output.finish_reason)]

    def choice(self, index: int, output: RequestOutput) -> Choice:
        """See :class:`Answering`."""
        text, logprobs = output.text, None
        ids: list[int] = output.token_ids
        found: list[Logprobs | None] = [*(output.logprobs or ())]
        if self.body.echo:
            text = self._echoed[index // self.n] + text
            ids, found = self._ids[index // self.n] + ids, [*(output.prompt_logprobs or ()), *found]
        if self.body.logprobs is not None:
            logprobs = text_logprobs(self.engine.tokenizer, ids, found, self.body.logprobs, 0)
        return _choice(index, text, logprobs, output.finish_reason)

    def _offset(self, index: int) -> int:
        return len(self._echoed[index // self.n]) if self.body.echo else 0


def _choice(index: int, text: str, logprobs: Any = None, reason: str | None = None) -> Choice:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
