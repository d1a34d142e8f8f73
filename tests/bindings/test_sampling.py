"""Attempts: how many, which is returned, and what an error leaves behind."""

from typing import Any

import pytest

from alorakit.bindings.session import (
    ChatContext,
    Component,
    ModelOption,
    ModelOutputThunk,
    MultiTurnStrategy,
    RejectionSamplingStrategy,
    SamplingResult,
    SimpleContext,
    ValidationResult,
    check,
    req,
    simple_validate,
)
from alorakit.engine.errors import ConfigError, ContextTypeError, NumericsError, RequestError


def test_instruct_tries_again_with_other_words_and_returns_the_success(fake_engine: Any) -> None:
    engine = fake_engine(["bad", "good", "never"])
    m = engine.session()
    wanted = req("Say good", simple_validate(lambda text: text == "good", reason="not good"))
    result = m.instruct("A", requirements=[wanted], return_sampling_results=True)
    assert result.success
    assert (str(result), result.result_index) == ("good", 1)
    assert [[v.reason for _, v in attempt] for attempt in result.sample_validations] == [["not good"], ["not good"]]
    assert [(p.temperature, p.seed, p.max_tokens) for p in engine.params] == [(0.0, None, 256), (0.7, 1, 256)]
    assert [item.value for item in m.ctx.as_list() if isinstance(item, ModelOutputThunk)] == ["good"]
    assert result.result_validations[0][0] == wanted


def test_if_every_attempt_fails_the_first_is_returned(fake_engine: Any) -> None:
    engine = fake_engine(["one", "two", "three"])
    m = engine.session()
    never = check("never", lambda ctx: ValidationResult(False))
    strategy = RejectionSamplingStrategy(loop_budget=3)
    result = m.instruct("A", requirements=[never], strategy=strategy, return_sampling_results=True)
    assert not result.success
    assert result.value == "one"
    assert len(result.sample_generations) == 3
    assert m.ctx is result.result_ctx


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({ModelOption.SEED: 7}, [(0.0, 7), (0.0, 8)]),
        ({ModelOption.TEMPERATURE: 0.5}, [(0.5, None), (0.5, None)]),
        ({ModelOption.TEMPERATURE: 0.5, ModelOption.SEED: 7}, [(0.5, 7), (0.5, 8)]),
    ],
)
def test_later_attempts_respect_the_callers_options(
    fake_engine: Any, options: dict[str, Any], expected: list[Any]
) -> None:
    engine = fake_engine(["one", "two"])
    never = check("never", lambda ctx: ValidationResult(False))
    engine.session().instruct("A", requirements=[never], model_options=options)
    assert [(p.temperature, p.seed) for p in engine.params] == expected


def test_sampling_results_need_a_strategy(fake_engine: Any) -> None:
    with pytest.raises(ConfigError, match="needs a strategy"):
        fake_engine().session().instruct("A", strategy=None, return_sampling_results=True)
    with pytest.raises(ConfigError, match="loop_budget=0"):
        RejectionSamplingStrategy(loop_budget=0)


NEVER = check("never", lambda ctx: ValidationResult(False))


@pytest.mark.parametrize("strategy", [RejectionSamplingStrategy, MultiTurnStrategy])
@pytest.mark.parametrize("concurrency", [1, 2])
def test_an_error_in_a_later_attempt_is_raised_and_nothing_is_lost(
    fake_engine: Any, strategy: Any, concurrency: int
) -> None:
    m = fake_engine(["hello", *["bad"] * concurrency, *["FAIL"] * concurrency]).session()
    m.chat("hi")
    before = m.ctx
    with pytest.raises(NumericsError):
        m.instruct("A", requirements=[NEVER], strategy=strategy(loop_budget=2, concurrency_budget=concurrency))
    assert m.ctx is before


def test_rows_of_attempts_run_side_by_side_until_one_succeeds(fake_engine: Any) -> None:
    engine = fake_engine(["a", "b", "c", "d", "good", "e", "f", "g"])
    strategy = RejectionSamplingStrategy(loop_budget=4, concurrency_budget=2)
    good = req("good", simple_validate(lambda text: text == "good"))
    result = engine.session().instruct("A", requirements=[good], strategy=strategy, return_sampling_results=True)
    assert result.success and str(result) == "good"
    assert len(result.sample_generations) <= 6  # the other row may end the attempt that it was at
    seeds = [params.seed for params in engine.params]
    assert len(set(seeds)) == len(seeds)  # no two attempts are the same
    failed = fake_engine(["a", "FAIL", "good"]).session().instruct(
        "A", requirements=[good], strategy=RejectionSamplingStrategy(loop_budget=2, concurrency_budget=2)
    )  # fmt: skip
    assert str(failed) == "good"


def test_another_turn_needs_a_chat(fake_engine: Any) -> None:
    m = fake_engine(["x", "y"]).session(chat=False)
    with pytest.raises(ConfigError, match="MultiTurnStrategy needs a ChatContext, found SimpleContext"):
        m.instruct("A", requirements=[NEVER], strategy=MultiTurnStrategy(loop_budget=2))


def test_a_strategy_may_not_change_the_kind_of_context_unless_told(fake_engine: Any) -> None:
    class Sly(RejectionSamplingStrategy):
        async def sample(self, *args: Any, **kwargs: Any) -> SamplingResult:
            result = await super().sample(*args, **kwargs)
            result.sample_contexts = [SimpleContext()]
            return result

    m = fake_engine(["x", "y"]).session()
    with pytest.raises(ContextTypeError, match="allow_context_type_change=True"):
        m.instruct("A", strategy=Sly())
    assert isinstance(m.ctx, ChatContext)
    m.allow_context_type_change = True
    m.instruct("A", strategy=Sly())
    assert isinstance(m.clone().ctx, SimpleContext) and m.clone().allow_context_type_change


def test_requirements_without_a_strategy_are_not_dropped(fake_engine: Any) -> None:
    with pytest.raises(ConfigError, match="need a strategy"):
        fake_engine(["x"]).session().act(ModelOutputThunk("a"), requirements=[NEVER])


def test_a_validation_context_is_checked_instead(fake_engine: Any) -> None:
    seen: list[Any] = []
    m = fake_engine(["x"]).session()

    class Elsewhere(RejectionSamplingStrategy):
        async def sample(self, *args: Any, **kwargs: Any) -> SamplingResult:
            return await super().sample(*args, **kwargs | {"validation_ctx": SimpleContext()})

    result = m.instruct("A", requirements=[req("r", lambda ctx: seen.append(ctx) is None)], strategy=Elsewhere())
    assert isinstance(seen[0], SimpleContext) and seen[0].as_list() == [result]


def test_a_component_of_ones_own_reads_the_answer(fake_engine: Any) -> None:
    class Number(Component[int]):
        def format_for_llm(self) -> str:
            return "A number, please"

        def _parse(self, computed: ModelOutputThunk[Any]) -> int:
            return int(str(computed))

    engine = fake_engine(["7", "seven"])
    m = engine.session()
    assert m.act(Number(), strategy=RejectionSamplingStrategy()).parsed_repr == 7
    with pytest.raises(ValueError, match="seven"):
        m.act(Number())
    assert len(m.ctx.as_list()) == 2

    class Mute(Component[str]):
        def format_for_llm(self) -> str:
            return None  # type: ignore[return-value]

    with pytest.raises(RequestError, match="what format_for_llm of Mute returns must be str"):
        m.act(Mute())
    with pytest.raises(NotImplementedError, match="Component has no format_for_llm"):
        m.act(Component())
    with pytest.raises(RequestError, match="action must be"):
        m.act("text")


def test_an_index_out_of_range_is_an_error() -> None:
    with pytest.raises(ConfigError, match="result_index=1 is out of range: there are 1 attempts"):
        SamplingResult(1, False, sample_generations=[ModelOutputThunk("x")])
