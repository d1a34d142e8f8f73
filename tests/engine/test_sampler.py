"""The sampler on made-up logits: a batch gives what a loop over its rows gives, and one failure stays one."""

import random

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from alorakit.engine.draw import uniforms
from alorakit.engine.errors import AlorakitError, NumericsError, RequestError
from alorakit.engine.request import SamplingParams
from alorakit.engine.sampler import Sampler
from alorakit.engine.scheduler import Entry
from alorakit.engine.sequence import Sequence

from .test_penalties import reference as penalised
from .test_truncation import reference as kept_by

VOCAB, EOS = 200, 2
KINDS = [
    {},
    dict(temperature=0.8),
    dict(temperature=1.5, top_k=30),
    dict(temperature=1.0, top_p=0.8),
    dict(temperature=2.0, min_p=0.1, top_k=50, top_p=0.9),
    dict(repetition_penalty=1.5),
    dict(frequency_penalty=0.6, presence_penalty=0.4, temperature=0.7),
    dict(min_tokens=9, stop_token_ids=(5, 7)),
    dict(min_tokens=9, stop_token_ids=(5, 7), temperature=1.2),
    dict(temperature=1e-6),
]


def sequence(seed: int, params: SamplingParams, num_prompt: int = 6, num_decoded: int = 4) -> Sequence:
    rng = random.Random(seed)
    tokens = [rng.randrange(3, VOCAB) for _ in range(num_prompt + num_decoded)]
    made = Sequence(tokens, num_prompt, 1000, params, None, sample_index=seed % 3)  # type: ignore[arg-type]
    made.seed = 1000 + seed
    return made


def entry(made: Sequence, draft: tuple[int, ...] = ()) -> Entry:
    return Entry(made, len(made.tokens) - 1, 1, completes=True, draft=draft)


def random_logits(rows: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, VOCAB, generator=torch.Generator().manual_seed(seed)) * 3


def expected(logits: torch.Tensor, made: Sequence) -> int:
    """The next token, in plain Python: penalties, bans, warpers of transformers, then the first running sum above u."""
    params, prompt = made.sampling, made.tokens[: made.num_prompt]
    logits = penalised(logits, prompt, made.completion, params)
    if len(made.completion) < params.min_tokens:
        for token in {EOS, *params.stop_ids}:
            logits[token] = float("-inf")
    if params.temperature == 0.0:
        return int(logits.argmax())
    logits = (logits.double() - logits.max()) / params.temperature
    keep = kept_by(logits, params.top_k, params.top_p, params.min_p)
    weights = torch.where(keep, logits, float("-inf")).softmax(-1)
    [uniform] = uniforms([made.seed], [made.sample_index], [len(made.completion)])
    return int((weights.cumsum(-1) > uniform).nonzero()[0])


@pytest.mark.parametrize("rows", [1, 3, 7, 133])
def test_a_batch_gives_what_a_loop_gives(rows):
    logits = random_logits(rows, seed=rows)
    made = [sequence(row, SamplingParams(**(KINDS[row % len(KINDS)] | {"max_tokens": 50}))) for row in range(rows)]
    before = logits.clone()
    got = Sampler(frozenset({EOS})).sample(logits, [entry(s) for s in made])
    assert got == [[expected(logits[row], s)] for row, s in enumerate(made)]
    assert torch.equal(logits, before)
    alone = [Sampler(frozenset({EOS})).sample(logits[row : row + 1], [entry(s)])[0] for row, s in enumerate(made)]
    assert alone == got


@pytest.mark.parametrize("kind", range(len(KINDS)), ids=lambda i: "-".join(KINDS[i]) or "greedy")
def test_drafts_change_nothing(kind):
    """Tokens one by one; then again with drafts right in full, in part, and not at all."""
    params = SamplingParams(**(KINDS[kind] | {"max_tokens": 50, "logprobs": 2}))
    logits = random_logits(5, seed=kind)
    sampler, made = Sampler(frozenset({EOS})), sequence(kind, params)
    for row in range(5):
        made.tokens += sampler.sample(logits[row : row + 1], [entry(made)])[0]
    want, reports = made.tokens[-5:], made.token_logprobs
    for right in range(5):
        draft = (*want[:right], *((t + 1) % VOCAB for t in want[right:4]))
        again, other = sequence(kind, params), sequence(99, SamplingParams(temperature=1.0))
        batch = torch.cat([random_logits(1, seed=50), logits])
        assert sampler.sample(batch, [entry(other), entry(again, draft)])[1] == want[: right + 1]
        assert [row.keys() for row in again.token_logprobs] == [row.keys() for row in reports[: right + 1]]


class Recorded(TorchDispatchMode):
    """The names of the operations that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_a_greedy_batch_costs_one_argmax():
    made = [sequence(row, SamplingParams(stop="x", stop_token_ids=[5])) for row in range(7)]
    logits = random_logits(7)
    with Recorded() as recorded:
        Sampler(frozenset({EOS})).sample(logits, [entry(s) for s in made])
    assert recorded.names == ["argmax", "resolve_conj", "resolve_neg"]  # the latter two are tolist's


def test_the_number_of_operations_does_not_grow_with_the_rows():
    counts = []
    for rows in (20, 200):
        kinds = [SamplingParams(**(KINDS[row % len(KINDS)] | {"max_tokens": 50, "logprobs": 3})) for row in range(rows)]
        made = [sequence(row, params) for row, params in enumerate(kinds)]
        logits = random_logits(rows)
        with Recorded() as recorded:
            Sampler(frozenset({EOS})).sample(logits, [entry(s) for s in made])
        counts.append(len(recorded.names))
    assert counts[0] == counts[1]


def test_logprobs_are_the_models_own_and_hold_the_chosen_token():
    tops = [0, 3, 100, None, 1]
    params = [SamplingParams(temperature=2.0, top_p=0.9, repetition_penalty=1.5, logprobs=top) for top in tops]
    made = [sequence(row, p) for row, p in enumerate(params)]
    logits = random_logits(5)
    got = Sampler(frozenset()).sample(logits, [entry(s) for s in made])
    logprobs = logits.log_softmax(-1)
    for row, (top, s, [token]) in enumerate(zip(tops, made, got, strict=True)):
        if top is None:
            assert s.token_logprobs == []
            continue
        [report] = s.token_logprobs
        ids = [token, *logprobs[row].topk(top).indices.tolist()]
        assert list(report) == list(dict.fromkeys(ids))
        assert all(report[i] == pytest.approx(logprobs[row, i].item(), abs=1e-5) for i in ids)


def test_prompt_logprobs_of_a_chunk_then_of_the_end():
    params = SamplingParams(prompt_logprobs=2, logprobs=0)
    made, other = sequence(0, params, num_prompt=6, num_decoded=0), sequence(1, SamplingParams())
    logits = random_logits(7)
    sampler = Sampler(frozenset())
    first = Entry(made, 0, 4, completes=False)
    assert sampler.sample(logits[:5], [first, entry(other)]) == [[], [int(logits[4].argmax())]]
    assert len(first.logits_rows) == 4
    last = Entry(made, 4, 2, completes=True)
    assert sampler.sample(logits[5:7], [last]) == [[int(logits[6].argmax())]]
    logprobs = logits.log_softmax(-1)
    for position, row in zip(range(1, 6), (0, 1, 2, 3, 5), strict=True):
        report, token = made.prompt_logprobs[position - 1], made.tokens[position]
        assert set(report) == {token, *logprobs[row].topk(2).indices.tolist()}
        assert report[token] == pytest.approx(logprobs[row, token].item(), abs=1e-5)
    assert list(made.token_logprobs[0]) == [int(logits[6].argmax())]


def test_a_step_that_is_made_again_reports_once():
    params = SamplingParams(prompt_logprobs=0, logprobs=0, temperature=1.0, repetition_penalty=1.2)
    made = sequence(0, params, num_prompt=6, num_decoded=0)
    logits, sampler, whole = random_logits(6), Sampler(frozenset()), Entry(made, 0, 6, completes=True)
    assert sampler.sample(logits, [whole]) == sampler.sample(logits, [whole])
    assert (len(made.prompt_logprobs), len(made.token_logprobs)) == (5, 1)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_without_a_token_fails_alone(temperature):
    banned = SamplingParams(
        max_tokens=9, min_tokens=9, stop_token_ids=tuple(range(VOCAB)), temperature=temperature, logprobs=1
    )
    fine = SamplingParams(temperature=temperature, frequency_penalty=0.5)
    made = [sequence(row, params) for row, params in enumerate([fine, banned, fine, fine])]
    logits = random_logits(4)
    logits[2, 5] = float("nan")
    want = expected(logits[0], made[0])
    got = Sampler(frozenset({EOS})).sample(logits, [entry(s) for s in made])
    assert got[0] == [want] and len(got[3]) == 1
    assert got[1] == got[2] == []
    assert made[0].error is made[3].error is None
    assert isinstance(made[1].error, RequestError) and "min_tokens forbids every token" in str(made[1].error)
    assert isinstance(made[2].error, NumericsError) and "not finite" in str(made[2].error)
    assert made[1].token_logprobs == []


def test_a_sequence_that_failed_before_is_left_alone():
    made = [sequence(row, SamplingParams(logprobs=1)) for row in range(3)]
    made[1].error = error = AlorakitError("before")
    got = Sampler(frozenset()).sample(random_logits(3), [entry(s) for s in made])
    assert [len(tokens) for tokens in got] == [1, 0, 1]
    assert made[1].error is error and made[1].token_logprobs == []
