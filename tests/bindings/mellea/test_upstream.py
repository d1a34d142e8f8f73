"""What running Mellea's own tests against the backend brought to light."""

import asyncio
import json
from typing import Literal

import pytest
from mellea.backends import ModelOption
from mellea.core import CBlock
from mellea.stdlib.components import Intrinsic, Message
from mellea.stdlib.context import ChatContext
from mellea.stdlib.sampling.sampling_algos.budget_forcing_alg import think_budget_forcing
from pydantic import BaseModel

from alorakit.engine.errors import AdapterNotFoundError, ConfigError, RequestError
from tests.bindings.mellea.conftest import YES_NO


async def ask(backend, action, **options):
    context = ChatContext().add(Message("user", "Is the seal leaking?"))
    thunk, _ = await backend.generate_from_context(action, context, model_options=options)
    return await thunk.avalue()


def test_an_adapter_function_without_an_adapter_is_a_value_error_as_in_mellea(backend):
    with pytest.raises(ValueError, match=r"has no adapter for 'uncertainty'.*call add_adapter") as caught:
        asyncio.run(ask(backend, Intrinsic("uncertainty")))
    assert isinstance(caught.value, AdapterNotFoundError)


def test_streaming_an_adapter_function_is_not_implemented_as_in_mellea(backend, new_adapter):
    backend.add_adapter(new_adapter("requirement-check", io=YES_NO))
    with pytest.raises(NotImplementedError, match=r"do not support streaming.*drop ModelOption.STREAM") as caught:
        asyncio.run(
            ask(backend, Intrinsic("requirement-check", {"requirement": "be brief"}), **{ModelOption.STREAM: True})
        )
    assert isinstance(caught.value, RequestError)


def test_an_empty_raw_text_begins_as_texts_do(backend, tokenizer):
    assert tokenizer.bos_token is not None
    both = [CBlock(""), CBlock(tokenizer.bos_token)]
    empty, begun = asyncio.run(backend.generate_from_raw(both, ChatContext()))
    assert empty.value == begun.value
    assert empty.generation.usage["prompt_tokens"] == begun.generation.usage["prompt_tokens"] == 1


def test_an_empty_raw_text_is_refused_where_texts_begin_with_nothing(backend, monkeypatch):
    monkeypatch.setattr(backend.engine.tokenizer, "bos_token_id", None)
    with pytest.raises(RequestError, match="the prompt is empty"):
        asyncio.run(backend.generate_from_raw([CBlock("")], ChatContext()))


def test_the_least_number_of_tokens_by_its_transformers_name(backend):
    async def num_tokens(least: int) -> int:
        options = {"min_new_tokens": least, "stop_token_ids": list(range(4, 300))}
        thunk, _ = await backend.generate_from_context(Message("user", "hello"), ChatContext(), model_options=options)
        await thunk.avalue()
        return thunk.generation.usage["completion_tokens"]

    assert asyncio.run(num_tokens(1)) < 5 <= asyncio.run(num_tokens(5))


def test_budget_forcing_of_mellea_runs(backend):
    """It asks for ``n=1`` among the options. Mellea's strategy around it takes its Ollama backend only."""
    budget = {"think_max_tokens": 6, "answer_max_tokens": 4, "answer_suffix": "So:"}
    thunk = asyncio.run(think_budget_forcing(backend, CBlock("Compute 1+1."), ctx=ChatContext(), **budget))
    assert thunk.value.startswith("<think>") and "</think> So:" in thunk.value
    assert thunk.generation.usage["completion_tokens"] <= 10


def test_several_answers_in_one_thunk_are_refused(backend):
    with pytest.raises(ConfigError, match="n=2 must be 1"):
        asyncio.run(ask(backend, CBlock("hello"), n=2))


def test_an_answer_has_the_fields_of_its_format_and_no_others(backend):
    class Verdict(BaseModel):
        result: Literal["yes", "no"]

    hot = {"max_new_tokens": 64, ModelOption.TEMPERATURE: 2.0, ModelOption.SEED: 0}
    prompts = [CBlock(f"Well, {number}?") for number in range(16)]
    thunks = asyncio.run(backend.generate_from_raw(prompts, ChatContext(), format=Verdict, model_options=hot))
    assert [set(json.loads(thunk.value)) for thunk in thunks] == [{"result"}] * 16


@pytest.mark.parametrize(
    "given, temperature, max_tokens",
    [
        ({}, 0.0, 12),
        ({ModelOption.TEMPERATURE: 0.7}, 0.7, 12),
        ({ModelOption.MAX_NEW_TOKENS: 99, ModelOption.SYSTEM_PROMPT: "Be helpful."}, 0.0, 99),
    ],
)
def test_options_of_a_call_win_over_those_of_an_io_yaml(new_backend, new_adapter, given, temperature, max_tokens):
    backend, asked = new_backend(), []
    backend.add_adapter(new_adapter("requirement-check", io=YES_NO))
    batch = backend._serving.batch

    def spy(requests, priority=0):
        asked.extend(requests)
        return batch(requests, priority)

    backend._serving.batch = spy
    asyncio.run(ask(backend, Intrinsic("requirement-check", {"requirement": "be brief"}), **given))
    [request] = asked
    assert (request.sampling.temperature, request.sampling.max_tokens) == (temperature, max_tokens)
    text = backend.engine.tokenizer.decode(request.prompt, skip_special_tokens=False)
    assert ("Be helpful." in text) == (ModelOption.SYSTEM_PROMPT in given)
