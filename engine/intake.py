"""From a call's arguments to sequences that are ready to be queued. Touches nothing that a step touches."""

from collections.abc import Sequence as Seq
from itertools import count
from numbers import Integral

from alorakit.engine.admission import Admission, Prompt, as_prompts, per_prompt
from alorakit.engine.errors import RequestError, shown
from alorakit.engine.registry import AdapterRegistry
from alorakit.engine.request import SamplingParams
from alorakit.engine.scoring import CandidateGroup, plan_candidates
from alorakit.engine.sequence import Sequence
from alorakit.engine.structured import Matcher

MAX_PRIORITY = 1000


class Intake:
    """Validates calls. May be used from several threads at once."""

    def __init__(self, admission: Admission, registry: AdapterRegistry) -> None:
        """An intake with the limits of ``admission`` and the adapters of ``registry``."""
        self._admission, self._registry = admission, registry
        self._request_ids = count(1)

    def requests(
        self,
        prompts: Prompt | Seq[Prompt],
        sampling: SamplingParams | Seq[SamplingParams] | None,
        adapter: str | Seq[str | None] | None,
        priority: int = 0,
    ) -> list[Sequence]:
        """``n`` sequences for each prompt, in order, all of one request id.

        Raises:
            RequestError: A prompt or parameter is not usable.
            AdapterNotFoundError: No adapter of that name.
        """
        items = as_prompts(prompts)
        given = sampling if sampling is not None else SamplingParams()
        params = per_prompt("sampling", given, len(items), SamplingParams)
        names = per_prompt("adapter", adapter, len(items), str | None)
        sequences = [
            sequence
            for index, (item, param, name) in enumerate(zip(items, params, names, strict=True))
            for sequence in self._admission.samples(item, param, self._registry.get(name), index)
        ]
        return self._tag(sequences, priority)

    def matcher(self, sampling: SamplingParams) -> Matcher | None:
        """See :meth:`Admission.matcher`: to tell afterwards which tokens an answer might have had."""
        return self._admission.matcher(sampling)

    def scores(
        self, prompt: Prompt, candidates: Seq[str], adapter: str | None, end: bool, priority: int = 0
    ) -> tuple[list[CandidateGroup], list[Sequence]]:
        """Groups of candidates and a sequence for each group.

        Raises:
            RequestError: The prompt or a candidate is not usable.
            AdapterNotFoundError: No adapter of that name.
        """
        if not isinstance(end, bool):
            raise RequestError(f"end={shown(end)} must be true or false")
        tokens, weights = self._admission.tokenize(prompt), self._registry.get(adapter)
        groups = plan_candidates(self._admission, candidates, end, self._admission.branch_budget(tokens, weights))
        sequences = [self._admission.sequence(list(tokens), SamplingParams(), weights, g.branches) for g in groups]
        return groups, self._tag(sequences, priority)

    def _tag(self, sequences: list[Sequence], priority: int) -> list[Sequence]:
        if not isinstance(priority, Integral) or isinstance(priority, bool) or abs(priority) > MAX_PRIORITY:
            raise RequestError(f"priority={shown(priority)} must be an integer from -{MAX_PRIORITY} to {MAX_PRIORITY}")
        request_id = next(self._request_ids)
        for sequence in sequences:
            sequence.priority, sequence.request_id = int(priority), request_id
        return sequences
