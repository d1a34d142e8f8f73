"""Answers of adapters equal those that PEFT generates from the same prompt, to the id (float32)."""

import pytest
from mellea import MelleaSession
from mellea.stdlib.components import Intrinsic
from mellea.stdlib.context import ChatContext
from mellea.stdlib.requirements import req

from alorakit.bindings.checks.asked import asked_ids
from alorakit.engine.errors import CheckError, MissingInvocationError
from tests.bindings.mellea.conftest import INVOCATION, OPENING
from tests.engine.conftest import reference, reference_generate

ASK = {"model": None, "response_format": None, "transformations": None, "instruction": "Judge: {what}"}
TOKENS = 24


def act(session, name, **arguments):
    from mellea.backends.adapters import AdapterType

    action = Intrinsic(name, intrinsic_kwargs=arguments, adapter_types=(AdapterType.ALORA, AdapterType.LORA))
    return session.act(action, strategy=None, model_options={"max_new_tokens": TOKENS, "ignore_eos": True})


@pytest.mark.parametrize(
    ("invocation", "instruction"),
    [
        pytest.param(OPENING, "Judge: {what}", id="alora-generation-prompt"),
        pytest.param(INVOCATION, "Judge: {what}\n" + INVOCATION, id="alora-in-the-instruction"),
        pytest.param(None, "Judge: {what}", id="lora"),
    ],
)
def test_an_adapter_function_writes_what_peft_generates(backend, base, new_adapter, answered, invocation, instruction):
    folder = new_adapter("judge", invocation, ASK | {"instruction": instruction}, seed=5)
    backend.add_adapter(folder)
    session = MelleaSession(backend, ctx=ChatContext())
    said = session.chat("Say something.").content
    with pytest.raises(CheckError, match="not what its io"):  # a random model writes no JSON
        act(session, "judge", what="the pump")
    asked = instruction.replace("{what}", "the pump")
    chat = [("user", "Say something."), ("assistant", None), ("user", asked)]
    tokenizer, first = backend.engine.tokenizer, answered[0]
    messages = [{"role": role, "content": said if text is None else text} for role, text in chat]
    messages[1]["token_ids"] = list(first.token_ids)
    ids = tokenizer.render(messages, add_generation_prompt=True)
    want, _ = reference_generate(reference(base, folder), ids, TOKENS)
    plain, _ = reference_generate(reference(base), ids, TOKENS)
    assert answered[1].token_ids == want != plain
    assert (answered[1].activation is None) == (invocation is None) or answered[1].activation == 0


def test_a_check_that_writes_a_text_writes_what_peft_generates(backend, base, new_labels, answered):
    folder = new_labels("writer", labels=(), answer="text")
    backend.add_adapter(folder)
    session = MelleaSession(backend, ctx=ChatContext())
    session.chat("Hello.")
    [verdict] = session.validate(req("It must be 'fine'."))
    output = answered[-1]
    tokenizer = backend.engine.tokenizer
    context = [
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": answered[0].text, "token_ids": list(answered[0].token_ids)},
    ]
    info = backend.engine.adapters["writer"]
    ids = asked_ids(tokenizer, info, info.manifest, context, "It must be 'fine'.")
    want, _ = reference_generate(reference(base, folder), ids, len(output.token_ids))
    assert output.token_ids == want
    assert not verdict and verdict.thunk.value == "no"


def test_a_chat_is_what_the_base_model_generates_whatever_adapters_there_are(backend, base, labels, answered):
    backend.add_adapter(labels)
    session = MelleaSession(backend, ctx=ChatContext())
    session.chat("Say something.", model_options={"max_new_tokens": TOKENS, "ignore_eos": True})
    ids = backend.engine.tokenizer.render([{"role": "user", "content": "Say something."}], add_generation_prompt=True)
    assert answered[0].token_ids == reference_generate(reference(base), ids, TOKENS)[0]


def test_an_invocation_that_the_prompt_lacks_is_an_error_and_no_base_answer(backend, new_adapter, answered):
    backend.add_adapter(new_adapter("judge", INVOCATION, ASK))
    session = MelleaSession(backend, ctx=ChatContext())
    session.chat("Say something.")
    with pytest.raises(MissingInvocationError, match=r"check_requirement.*the instruction in .*io\.yaml is the place"):
        act(session, "judge", what="the pump")
    assert len(answered) == 1
