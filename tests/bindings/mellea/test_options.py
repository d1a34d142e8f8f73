"""Every model option of Mellea: what it does here, or that it is refused."""

import logging
import threading

import pytest
from mellea import MelleaSession
from mellea.backends import ModelOption
from mellea.backends.tools import MelleaTool
from mellea.stdlib.context import ChatContext, SimpleContext

from alorakit.bindings.mellea.options import SPELLINGS, CallOptions
from alorakit.engine.errors import AlorakitError, ConfigError, RequestError

ALL = {name: value for name, value in vars(ModelOption).items() if name.isupper()}


def options(given=None, defaults=None, variables=frozenset()):
    return CallOptions.of(defaults or {}, given, variables)


@pytest.fixture
def session(backend):
    return MelleaSession(backend, ctx=SimpleContext())


def say(session, given=None, text="Say something."):
    return session.act(text_block(text), strategy=None, model_options=given)


def text_block(text):
    from mellea.core import CBlock

    return CBlock(text)


def test_every_option_of_mellea_is_known():
    tool = MelleaTool.from_callable(lambda x: x, name="echo")
    values = {
        "TOOLS": [tool], "TOOL_CHOICE": "auto", "MAX_NEW_TOKENS": 3, "SYSTEM_PROMPT": "Be brief.", "TEMPERATURE": 0.5,
        "CONTEXT_WINDOW": 512, "THINKING": True, "SEED": 1, "STREAM": True, "STREAM_TIMEOUT": 2.0,
        "STOP_SEQUENCES": ["\n"], "LOGITS": True, "RAW_LOGITS": True,
    }  # fmt: skip
    assert values.keys() == ALL.keys()
    found = options({ALL[name]: value for name, value in values.items()}, variables=frozenset({"enable_thinking"}))
    assert found.sampling == {"max_tokens": 3, "temperature": 0.5, "seed": 1, "stop": ("\n",)}
    assert found.template == {"enable_thinking": True}
    assert (found.system_prompt, found.tool_choice) == ("Be brief.", "auto")
    assert (found.stream, found.stream_timeout) == (True, 2.0)
    assert set(found.ignored) == {ModelOption.CONTEXT_WINDOW, ModelOption.LOGITS, ModelOption.RAW_LOGITS}
    assert options(dict.fromkeys(ALL.values())).params() == options().params()


def test_defaults_are_greedy_and_256_tokens():
    params = options().params()
    assert (params.max_tokens, params.temperature, params.seed) == (256, 0.0, None)


@pytest.mark.parametrize("spelling", sorted(SPELLINGS))
def test_other_spellings_mean_the_same(spelling):
    values = {
        ModelOption.SYSTEM_PROMPT: "Be brief.", ModelOption.MAX_NEW_TOKENS: 3, ModelOption.SEED: 4,
        ModelOption.TOOLS: [], ModelOption.STREAM: True, ModelOption.STOP_SEQUENCES: ["x"], ModelOption.THINKING: False,
    }  # fmt: skip
    variables = frozenset({"thinking"})
    own = SPELLINGS[spelling]
    assert options({spelling: values[own]}, variables=variables) == options({own: values[own]}, variables=variables)


@pytest.mark.parametrize(
    ("given", "temperature"),
    [
        ({}, 0.0),
        ({"seed": 1}, 1.0),
        ({"do_sample": True}, 1.0),
        ({"temperature": 0.3}, 0.3),
        ({"temperature": 0.3, "do_sample": False}, 0.0),
        ({"temperature": 0, "do_sample": True, "seed": 1}, 0.0),
        ({"seed": 1, "do_sample": False}, 0.0),
    ],
)
def test_when_answers_are_sampled(given, temperature):
    assert options(given).params().temperature == temperature


def test_a_calls_options_win_over_the_backends_and_none_takes_them_back():
    defaults = {"max_tokens": 5, ModelOption.TEMPERATURE: 0.7, "top_p": 0.9}
    found = options({ModelOption.MAX_NEW_TOKENS: 6, "top_p": None}, defaults).params()
    assert (found.max_tokens, found.temperature, found.top_p) == (6, 0.7, 1.0)
    assert options(None, defaults).params().top_p == 0.9


@pytest.mark.parametrize(
    "given",
    [
        {"max_tokens": "three"},
        {"max_tokens": 0},
        {"temperature": -1.0},
        {"temperature": "hot"},
        {"seed": "a"},
        {"stop": 3},
        {"stop": [1]},
        {"system_prompt": 3},
        {"stream": "yes"},
        {ModelOption.STREAM_TIMEOUT: "long"},
        {ModelOption.STREAM_TIMEOUT: 0},
        {ModelOption.STREAM_TIMEOUT: True},
        {"tool_choice": {"name": "x"}},
        {"tools": "search"},
        {"tools": [print]},
        {"tools": {1: print}},
        {"top_k": 1.5},
        {"logprobs": 1000},
        {"n": 2},
        {"beams": 4},
        {"enable_thinking_": True},
    ],
    ids=repr,
)
def test_what_cannot_be_used_is_refused_before_anything_runs(given, session, engine):
    with pytest.raises(AlorakitError) as raised:
        say(session, given)
    assert isinstance(raised.value, ConfigError | RequestError)
    assert next(iter(given)).strip("@").split("_")[0][:4] in str(raised.value)
    assert engine.stats().requests == 0


def test_bad_defaults_are_refused_when_the_backend_is_made(base):
    from alorakit.bindings.mellea import MelleaBackend

    before = threading.active_count()
    with pytest.raises(ConfigError, match=r"unknown model options \['beams'\]"):
        MelleaBackend(str(base), dtype="float32", model_options={"beams": 2})
    assert threading.active_count() == before


def test_an_option_without_effect_is_said_once(session, caplog):
    with caplog.at_level(logging.WARNING, logger="mellea"):
        say(session, {ModelOption.CONTEXT_WINDOW: 100})
        say(session, {ModelOption.CONTEXT_WINDOW: 100})
    assert len([r for r in caplog.records if "context_window" in r.getMessage()]) == 1


def test_seeds_reproduce(session):
    texts = [say(session, {"seed": seed, "temperature": 1.0}).value for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_a_stop_sequence_ends_the_text_before_it(session):
    whole = say(session, {"max_tokens": 30}).value
    stop = whole[6:8]
    thunk = say(session, {"max_tokens": 30, "stop": [stop]})
    assert thunk.value == whole[: whole.index(stop)]
    assert thunk.generation.finish_reasons == ["stop"]


def test_usage_finish_reason_and_logprobs(session):
    thunk = say(session, {"max_tokens": 5, "logprobs": 3})
    output = thunk.raw.response
    assert thunk.generation.finish_reasons == ["length"] and thunk.raw.provider == "alorakit"
    assert thunk.generation.usage == {
        "prompt_tokens": output.usage.prompt_tokens, "completion_tokens": 5,
        "total_tokens": output.usage.prompt_tokens + 5, "prompt_tokens_details": {"cached_tokens": 0},
    }  # fmt: skip
    assert [len(top) >= 3 for top in output.logprobs] == [True] * 5
    again = say(session, {"max_tokens": 5})
    cached = again.generation.usage["prompt_tokens_details"]["cached_tokens"]
    assert cached == again._meta["alorakit"]["cached_tokens"] == output.usage.prompt_tokens - 1
    log = again._generate_log
    assert log.model_output == again.value and log.backend.startswith("alorakit::") and log.result is again


def test_the_system_prompt_opens_the_chat(backend):
    session = MelleaSession(backend, ctx=ChatContext())
    session.chat("Hello.", model_options={ModelOption.SYSTEM_PROMPT: "Be brief."})
    prompt = session.ctx.last_output()._generate_log.prompt
    assert prompt[0] == {"role": "system", "content": "Be brief."}
    session.chat("Hello again.", model_options={"system": "Be brief."})
    prompt = session.ctx.last_output()._generate_log.prompt
    assert [m["role"] for m in prompt] == ["system", "user", "assistant", "user"]
