"""Requests of both kinds in one batch: texts to generate and candidates to score, each with an adapter of its own."""

import time
from collections.abc import Sequence as Seq
from dataclasses import dataclass

from alorakit.engine.admission import Prompt
from alorakit.engine.errors import AdapterNotFoundError, ClosedError, RequestError, shown
from alorakit.engine.intake import Intake
from alorakit.engine.request import RequestOutput, SamplingParams, ScoreResult
from alorakit.engine.scoring import CandidateGroup, combine
from alorakit.engine.sequence import Sequence


@dataclass(frozen=True)
class GenerateRequest:
    """A text to generate.

    Attributes:
        prompt: A text or a list of token ids.
        sampling: None: greedy, 16 tokens.
        adapter: Name, or None for the base model.
        digest: What the adapter of that name must be (:attr:`AdapterInfo.digest`); None: whatever it is.
    """

    prompt: Prompt
    sampling: SamplingParams | None = None
    adapter: str | None = None
    digest: str | None = None


@dataclass(frozen=True)
class ScoreRequest:
    """Candidates to score; see :meth:`~alorakit.Engine.score`.

    Attributes:
        prompt: A text or a list of token ids.
        candidates: Texts, each tokenized on its own.
        adapter: Name, or None for the base model.
        end: Close each candidate by end-of-sequence.
        digest: As for :class:`GenerateRequest`.
    """

    prompt: Prompt
    candidates: Seq[str]
    adapter: str | None = None
    end: bool = True
    digest: str | None = None


Request = GenerateRequest | ScoreRequest
Answer = RequestOutput | ScoreResult


class MixedBatch:
    """The sequences of some requests, and how their answers come out of them.

    Attributes:
        sequences: What runs, in the requests' order.
    """

    def __init__(self, intake: Intake, requests: Seq[Request], priority: int = 0) -> None:
        """Make the sequences; none is queued.

        Raises:
            RequestError: A request is of another kind or not usable; nothing is made then.
            AdapterNotFoundError: There is no such adapter, or another of its name.
        """
        if not isinstance(requests, list | tuple):
            raise RequestError(f"requests={shown(requests)} must be a list of GenerateRequest and ScoreRequest")
        self._started = time.perf_counter()
        self._parts: list[tuple[list[CandidateGroup] | None, list[Sequence]]] = []
        for index, request in enumerate(requests):
            groups = None
            if isinstance(request, ScoreRequest):
                groups, sequences = intake.scores(
                    request.prompt, request.candidates, request.adapter, request.end, priority
                )
            elif isinstance(request, GenerateRequest):
                sequences = intake.requests([request.prompt], request.sampling, request.adapter, priority)
                if len(sequences) > 1:
                    raise RequestError(f"requests[{index}]: n={len(sequences)} is above 1; repeat the request instead")
                sequences[0].prompt_index = index
            else:
                raise RequestError(f"requests[{index}]={shown(request)} must be a GenerateRequest or a ScoreRequest")
            _check_digest(request, sequences)
            self._parts.append((groups, sequences))
        self.sequences = [sequence for _, sequences in self._parts for sequence in sequences]

    def answers(self) -> list[Answer]:
        """The answers, once every sequence has ended well.

        Raises:
            ClosedError: The engine was closed before some candidates were scored.
        """
        found: list[Answer] = []
        for groups, sequences in self._parts:
            if groups is None:
                found.append(sequences[0].to_output())
                continue
            if any(sequence.finish_reason == "abort" for sequence in sequences):
                raise ClosedError("the engine was closed before the candidates were scored")
            found.append(combine(groups, sequences, self._started))
        return found


def _check_digest(request: Request, sequences: Seq[Sequence]) -> None:
    found = {sequence.adapter.info.digest for sequence in sequences if sequence.adapter is not None}
    if request.digest is not None and found - {request.digest}:
        raise AdapterNotFoundError(
            f"adapter {request.adapter!r} was replaced by another of its name while the request was made; ask again"
        )
