"""The session on an engine without a model: what it asks, what it remembers, what it answers."""

from collections.abc import Callable
from typing import Any

import pytest

from alorakit.bindings.session import (
    CBlock,
    ChatContext,
    EngineBackend,
    MelleaSession,
    Message,
    ModelOption,
    ModelOutputThunk,
    RejectionSamplingStrategy,
    ValidationResult,
    check,
    req,
    simple_validate,
    start_session,
)
from alorakit.engine.errors import AlorakitError, ConfigError, RequestError
from alorakit.engine.manifest import Manifest


def test_instruct_fills_variables_and_lists_requirements(fake_engine: Any) -> None:
    engine = fake_engine(["done"])
    m = engine.session()
    result = m.instruct(
        "Summarise: {{note}}",
        user_variables={"note": "{{oil}} leak", "how": "short"},
        requirements=["Be {{how}}.", check("secret"), req(validation_fn=simple_validate(lambda text: True))],
        strategy=None,
    )
    assert str(result) == "done"
    assert engine.prompts == [
        "<user>Summarise: {{oil}} leak\nFulfill the following requirements:\n* Be short.<assistant>"
    ]
    assert m.last_prompt() == [
        {"role": "user", "content": "Summarise: {{oil}} leak\nFulfill the following requirements:\n* Be short."}
    ]


def test_instruct_without_variables_leaves_braces_alone(fake_engine: Any) -> None:
    engine = fake_engine(["x"])
    engine.session().instruct("Fill {{this}}", prefix="P", icl_examples=["e"], grounding_context={"doc": CBlock("g")})
    examples, grounding = "Here are some examples:\n* e", "Here is some grounding context:\n*   [doc] =  g"
    assert engine.prompts == [f"<user>P\nFill {{{{this}}}}\n{examples}\n{grounding}<assistant>"]


@pytest.mark.parametrize(
    "template",
    [
        "{{missing}}",
        "{% if %}",
        "{{ ''.__class__.__mro__ }}",
        "{{ 1/0 }}",
        "{{ note + 1 }}",
        "{{ range(10**9)|list }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ " + "(" * 5000 + ")" * 5000 + " }}",
        "{{ note.encode('ascii') }}",
    ],
    ids=lambda template: template[:20],
)
def test_a_template_that_cannot_be_filled_raises(fake_engine: Any, template: str) -> None:
    with pytest.raises(RequestError, match="cannot fill the template") as info:
        fake_engine().session().instruct(template, user_variables={"note": "\xe9"})
    assert "\n" not in str(info.value)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"note": None}, r"user_variables\['note'\]"),
        ({"note": 5}, r"\['note'\]"),
        ({5: "x"}, "key"),
        ("note", "user_variables"),
    ],
)
def test_variables_are_strings(fake_engine: Any, given: Any, named: str) -> None:
    with pytest.raises(RequestError, match=f"{named}.* must be "):
        fake_engine().session().instruct("{{note}}", user_variables=given)


@pytest.mark.parametrize(
    "call",
    [
        lambda m: m.instruct(5),
        lambda m: m.instruct(""),
        lambda m: m.instruct(None),
        lambda m: m.instruct("A", requirements=5),
        lambda m: m.instruct("A", requirements=[5]),
        lambda m: m.instruct("A", icl_examples=5),
        lambda m: m.instruct("A", grounding_context="x"),
        lambda m: m.instruct("A", model_options=5),
        lambda m: m.instruct("A", strategy=RejectionSamplingStrategy(loop_budget="a")),  # type: ignore[arg-type]
        lambda m: m.instruct("A", requirements=[req("r", lambda ctx: "yes")]),  # type: ignore[arg-type,return-value]
        lambda m: m.chat(""),
        lambda m: m.chat(b"x"),
        lambda m: m.validate(None, output="x"),
        lambda m: m.validate("r", output=5),
        lambda m: req(5),  # type: ignore[arg-type]
        lambda m: req(validation_fn=5),  # type: ignore[arg-type]
        lambda m: req("r", adapter=["a"]),  # type: ignore[arg-type]
        lambda m: MelleaSession("model"),  # type: ignore[arg-type]
        lambda m: MelleaSession(m.backend, "ctx"),  # type: ignore[arg-type]
    ],
)
def test_arguments_of_the_wrong_kind_are_named(fake_engine: Any, call: Callable[[MelleaSession], object]) -> None:
    m = fake_engine(["x"]).session()
    with pytest.raises(AlorakitError, match=r"must be|is empty|returns|wrap it in") as info:
        call(m)
    assert "\n" not in str(info.value)
    assert m.ctx.as_list() == []


def test_a_validation_fn_may_return_a_bare_bool(fake_engine: Any) -> None:
    m = fake_engine(["x"]).session()
    result = m.instruct("A", requirements=req("r", lambda ctx: True), return_sampling_results=True)
    assert result.result_validations[0][1] == ValidationResult(True)


def test_one_requirement_needs_no_list(fake_engine: Any) -> None:
    engine = fake_engine(["x"])
    engine.session().instruct("A", requirements="Be brief.", strategy=None)
    assert engine.prompts == ["<user>A\nFulfill the following requirements:\n* Be brief.<assistant>"]


def test_context_after_instruct_holds_question_and_answer_with_ids(fake_engine: Any) -> None:
    engine = fake_engine(["one", "two"])
    m = engine.session()
    m.instruct("A")
    m.instruct("B")
    assert engine.prompts[1] == "<user>A<assistant>one<user>B<assistant>"
    [_, answer, _, _] = m.ctx.as_list()
    assert isinstance(answer, ModelOutputThunk)
    assert answer.token_ids == (*map(ord, "one"), 0)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 4


def test_without_a_context_turns_do_not_see_each_other(fake_engine: Any) -> None:
    engine = fake_engine(["one", "two"])
    m = engine.session(chat=False)
    m.instruct("A")
    m.instruct("B")
    assert engine.prompts == ["<user>A<assistant>", "<user>B<assistant>"]


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("images", lambda m: m.instruct("A", images=["i"])),
        ("audio", lambda m: m.chat("A", audio=["a"])),
        ("tool_calls", lambda m: m.instruct("A", tool_calls=True)),
        ("tool_calls", lambda m: m.query("A", "B", tool_calls=True)),
        ("generate_logs", lambda m: m.validate("r", output="x", generate_logs=[None])),
        ("chunking", lambda m: req("r", chunking="sentence")),  # type: ignore[arg-type]
        ("compactor", lambda m: ChatContext(compactor="c")),  # type: ignore[arg-type]
        ("model_id", lambda m: ChatContext(model_id="c")),  # type: ignore[arg-type]
        ("thinking", lambda m: Message("user", "x", thinking="t")),  # type: ignore[arg-type]
        ("plugins", lambda m: start_session(plugins=["p"])),  # type: ignore[arg-type]
    ],
)
def test_what_is_not_supported_is_refused(fake_engine: Any, name: str, call: Callable[[MelleaSession], object]) -> None:
    m = fake_engine(["x"]).session()
    with pytest.raises(RequestError, match=rf"{name}=.* is not supported by this backend; leave {name} out"):
        call(m)
    assert m.ctx.as_list() == []


def test_chat_returns_a_message_and_goes_on(fake_engine: Any) -> None:
    engine = fake_engine(["hello", "bye"])
    m = engine.session()
    answer = m.chat("hi {{name}}", user_variables={"name": "Ann"})
    assert answer == Message("assistant", "hello", token_ids=(*map(ord, "hello"), 0))
    m.chat("go", role="tool")
    assert engine.prompts[1] == "<user>hi Ann<assistant>hello<tool>go<assistant>"


def test_options_of_the_call_win_over_the_backends(fake_engine: Any) -> None:
    engine = fake_engine(["x"])
    m = engine.session(**{ModelOption.MAX_NEW_TOKENS: 5, ModelOption.TOP_P: 0.5, ModelOption.SYSTEM_PROMPT: "Be kind"})
    m.chat("hi", model_options={ModelOption.MAX_NEW_TOKENS: 9, ModelOption.STOP_SEQUENCES: ["\n"], "top_p": None})
    [params] = engine.params
    assert (params.max_tokens, params.top_p, params.stop) == (9, 0.5, ("\n",))
    assert engine.prompts == ["<system>Be kind<user>hi<assistant>"]
    assert len(m.ctx.as_list()) == 2  # the system prompt is an option, not a part of the chat


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temprature": 1.0}, "'temprature'; known ones are .*temperature"),
        ({ModelOption.STOP_SEQUENCES: "\n"}, "list of strings"),
        ({ModelOption.SYSTEM_PROMPT: 3}, "must be str"),
        ({ModelOption.STREAM: 1}, "must be bool"),
        ({ModelOption.TOOLS: []}, "not supported: this backend calls no tools"),
        ({ModelOption.LOGITS: True}, "not supported: ask the engine"),
    ],
)
def test_bad_options_raise(fake_engine: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        fake_engine().session().chat("hi", model_options=options)
    with pytest.raises(ConfigError, match=message):
        EngineBackend(engine=fake_engine(), model_options=options)


def test_a_system_prompt_goes_before_the_chats_own(fake_engine: Any) -> None:
    engine = fake_engine(["x"])
    m = engine.session()
    m.ctx = m.ctx.add(Message("system", "Be rude"))
    m.chat("hi", model_options={ModelOption.SYSTEM_PROMPT: "Be kind"})
    assert engine.prompts == ["<system>Be kind<system>Be rude<user>hi<assistant>"]


def test_reset_and_clone(fake_engine: Any) -> None:
    m = fake_engine(["one", "two"]).session()
    assert m.last_prompt() is None
    m.chat("A")
    other = m.clone()
    other.chat("B")
    assert (len(m.ctx.as_list()), len(other.ctx.as_list())) == (2, 4)
    m.reset()
    assert m.ctx.as_list() == []
    assert m.last_prompt() is None


def test_a_text_by_hand_is_a_training_row_wherever_no_chat_is_seen(fake_engine: Any) -> None:
    engine = fake_engine(["answer"])
    engine.register("failure", Manifest(labels=("bearing", "no_failure"), invocation="@"))
    m = engine.session(chat=False)
    m.chat("hi")
    m.validate("must be 'bearing'", output=ModelOutputThunk("x"))
    assert [prompt for prompt, *_ in engine.scored] == ["<user>x@"]
