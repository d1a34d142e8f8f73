"""Sessions on a real, tiny engine: shared batches, threads, event loops, forks, and what is left behind."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from alorakit import ChatContext, Engine, SamplingParams, req
from alorakit.bindings.session import Message, ModelOption, SimpleContext, simple_validate
from alorakit.engine.errors import ClosedError, StreamError
from tests.bindings.served import SHORT, stepping

LONG = "The pump vibrates at 3100 RPM, and a connecting rod is suspected. " * 8


def test_many_requirements_cost_one_prefill(session: Any, engine: Engine) -> None:
    wanted = [
        req("is it a rod", adapter="parts"),
        *(req(f"requirement {n}", adapter="checker") for n in range(4)),
    ]
    m = session()
    m.chat(LONG)
    context = len(engine.tokenizer.render([message.as_dict() for message in m.ctx.messages()]))
    before = engine.stats()
    verdicts = m.validate(wanted)
    after = engine.stats()
    assert [verdict.label is not None for verdict in verdicts] == [True] * 5
    assert context > 150
    assert after.tokens_computed - before.tokens_computed < context
    assert after.steps - before.steps <= 4
    # With judges among them: one prefill of what they share, and the steps of the longest answer.
    m.backend.default_to_constraint_checking_alora = False
    before = engine.stats()
    m.validate([*wanted, req("judge 1"), req("judge 2")])
    after = engine.stats()
    judge = len(engine.tokenizer.encode(str(m.ctx.last_output()))) + 400
    assert after.tokens_computed - before.tokens_computed < context + judge
    assert after.steps - before.steps <= 4 + SHORT[ModelOption.MAX_NEW_TOKENS]


def test_a_fresh_chat_is_read_once_for_all_its_checks(session: Any, engine: Engine) -> None:
    ctx = ChatContext().add(Message("user", LONG))
    ids = engine.tokenizer.render([{"role": "user", "content": LONG}])
    session(ctx).validate([req(f"requirement {n}", adapter="checker") for n in range(6)])
    assert engine.stats().tokens_computed < 2 * len(ids)


def test_threads_and_coroutines_share_steps_and_get_their_own_answers(session: Any, engine: Engine) -> None:
    questions = [f"Question {n}: {'why ' * n}" for n in range(12)]
    check = req("requirement", adapter="checker")

    def ask(question: str) -> list[Any]:
        m = session()
        return [m.chat(question).content, m.validate(check)[0].label]

    alone = [ask(question) for question in questions]
    steps = engine.stats().steps
    for question in questions:  # nothing cached from here on is new: the same work again
        ask(question)
    one_by_one = engine.stats().steps - steps
    start = threading.Barrier(len(questions))
    with ThreadPoolExecutor(len(questions)) as pool:
        together = list(pool.map(lambda question: start.wait() is None or ask(question), questions))
    assert together == alone
    assert engine.stats().steps - steps - one_by_one < one_by_one / 2

    async def a(question: str) -> list[Any]:
        m = session()
        return [(await m.achat(question)).content, (await m.avalidate(check))[0].label]

    async def everybody() -> list[list[Any]]:
        return await asyncio.gather(*(a(question) for question in questions))

    assert asyncio.run(everybody()) == alone


def test_the_engine_is_free_between_calls_and_after_close(session: Any, engine: Engine) -> None:
    m = session()
    said = m.chat("hi")
    ids = engine.tokenizer.render([{"role": "user", "content": "hi"}], add_generation_prompt=True)
    for _ in range(20):
        assert engine.generate([ids], SamplingParams(max_tokens=6))[0].text == said.content
        m.reset()
        assert m.chat("hi") == said
    assert stepping() == 1
    m.backend.close()
    m.backend.close()
    assert stepping() == 0
    assert engine.generate([ids], SamplingParams(max_tokens=6))[0].text == said.content
    with pytest.raises(ClosedError, match="make another EngineBackend"):
        m.chat("hi")
    with pytest.raises(ClosedError, match="make another EngineBackend"):
        m.validate("x", output="y")


def test_a_stream_brings_the_text_in_pieces(session: Any) -> None:
    whole = session().chat(LONG).content

    async def main() -> None:
        m = session()
        output = await m.aact(Message("user", LONG), model_options={ModelOption.STREAM: True})
        assert (output.is_computed(), output.value) == (False, None)
        pieces = []
        while not output.is_computed():
            pieces.append(await output.astream())
        assert "".join(pieces) == output.value == whole
        assert output.parsed_repr == Message("assistant", whole, token_ids=output.token_ids)
        assert output.usage.completion_tokens == 6 and output.finish_reason and output.timing.total_s > 0
        with pytest.raises(StreamError, match="no more to stream"):
            await output.astream()
        again = await m.ainstruct("more", strategy=None, model_options={ModelOption.STREAM: True})
        assert "".join([piece async for piece in again]) == again.value
        in_one = await m.ainstruct("more", strategy=None)
        assert await in_one.astream() == in_one.value

    asyncio.run(main())


def test_cancelling_frees_the_request(session: Any, engine: Engine) -> None:
    endless = {ModelOption.STREAM: True, ModelOption.MAX_NEW_TOKENS: 1500, ModelOption.MIN_TOKENS: 1500}

    async def main() -> None:
        m = session()
        async with await m.aact(Message("user", "hi"), model_options=endless) as output:
            text = await output.astream()
        assert output.is_computed() and output.cancelled and output.value.startswith(text)
        waiting = asyncio.create_task(m.achat("hi", model_options=endless | {ModelOption.STREAM: False}))
        while engine.stats().running == 0:
            await asyncio.sleep(0.001)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert len(m.ctx.as_list()) == 2
        await m.achat("on it goes")
        assert engine.stats().running == engine.stats().waiting == 0

    asyncio.run(main())


def test_synchronous_calls_inside_an_event_loop(session: Any) -> None:
    async def notebook() -> None:
        m = session()
        under_way = await m.aact(Message("user", "one"))  # generated meanwhile, although this loop is blocked
        said = m.chat("two")
        assert under_way.is_computed()
        prompt = m.last_prompt()
        assert [message["role"] for message in prompt] == ["user", "assistant", "user"]
        assert said.content == m.ctx.last_output().value

    asyncio.run(notebook())


def test_a_function_may_ask_the_model_itself(session: Any) -> None:
    m, other = session(), session(SimpleContext())
    asked = []

    def judge(ctx: Any) -> bool:
        asked.append(other.chat(f"Is it good? {ctx.last_output()}").content)
        return bool(other.validate(req("any", adapter="checker"), output="x")) and len(asked) > 1

    result = m.instruct("Say it", requirements=[req("good", judge)], return_sampling_results=True)
    assert result.success and len(asked) == 2


def test_a_function_that_exits_ends_its_call_alone(session: Any) -> None:
    def leave(ctx: Any) -> bool:
        raise SystemExit(3)

    m = session()
    for call in (lambda: m.instruct("x", requirements=[req("r", leave)]), lambda: m.validate(req("r", leave))):
        with pytest.raises(SystemExit):
            call()
    assert m.ctx.is_root_node
    m.chat("hi")


def test_one_check_of_a_stream_sees_it_whole(session: Any) -> None:
    m = session()
    stream = {ModelOption.STREAM: True}
    length = req("six", simple_validate(lambda text: (len(text) > 0, text)))
    result = m.instruct(LONG, requirements=[length], model_options=stream, return_sampling_results=True)
    assert result.result_validations[0][1].reason == result.value
