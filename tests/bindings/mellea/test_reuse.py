"""Reuse through Mellea's contexts, which are text: exactly the new suffix is computed (blocks of 16)."""

import threading

import pytest
from mellea import MelleaSession
from mellea.core import ModelOutputThunk
from mellea.stdlib.components import Message
from mellea.stdlib.context import ChatContext, SimpleContext
from mellea.stdlib.requirements import req

from alorakit.bindings.history import GeneratedTexts
from tests.bindings.mellea.conftest import OPENING, YES_NO

CHECK = "It must not be 'no_failure'."
LENGTH = {"ignore_eos": True, "max_tokens": 20}


def counts(thunk):
    usage = thunk.generation.usage
    return usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"]


@pytest.fixture
def tokens(backend):
    """How many tokens a text has."""
    return lambda text: len(backend.engine.tokenizer.encode(text, add_special_tokens=False))


def turn(tokens, text):
    """Tokens that a user's turn adds, the closing of the answer before it and the opening of the next included."""
    return tokens(f"<|im_end|>\n<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.parametrize("verb", ["chat", "instruct"])
def test_the_next_turn_computes_what_is_new(backend, tokens, verb):
    session = MelleaSession(backend, ctx=ChatContext())
    ask = getattr(session, verb)
    known = 0
    for text in ("Say something.", "And then?", "Go on, please."):
        ask(text, model_options=LENGTH, **({"strategy": None} if verb == "instruct" else {}))
        thunk = session.ctx.last_output()
        prompt, cached = counts(thunk)
        if known:
            shown = thunk._generate_log.prompt[-1]["content"]
            assert prompt == known + turn(tokens, shown)
            assert cached == known - 1  # the last token of the answer was chosen, and never read
        known = prompt + 20
    assert backend.engine.stats().splice_fallbacks == 0


@pytest.mark.parametrize("verb", ["chat", "instruct"])
def test_each_check_computes_its_own_suffix(backend, labels, tokens, verb):
    backend.add_adapter(labels)
    session = MelleaSession(backend, ctx=ChatContext())
    getattr(session, verb)("Say something.", model_options=LENGTH, **({"strategy": None} if verb == "instruct" else {}))
    prompt, _ = counts(session.ctx.last_output())
    suffix = tokens("<|im_end|>\n") + tokens_of_check(backend)
    for index in range(3):
        [verdict] = session.validate(req(CHECK))
        asked, cached = counts(verdict.thunk)
        assert asked == prompt + 20 + suffix
        # The second check has the first one's rows, but for the last, whose answer is what is wanted.
        assert cached == (asked - 1 if index else prompt + 19)


def tokens_of_check(backend):
    """Tokens of the empty requirement that training asked with, and of the invocation."""
    engine = backend.engine
    info = engine.adapters["my_adapter"]
    from alorakit.bindings.checks.asked import asked_ids

    context = [{"role": "user", "content": "x"}]
    return len(asked_ids(engine.tokenizer, info, info.manifest, context, CHECK)) - len(engine.tokenizer.render(context))


def test_a_simple_context_reads_the_same_chat(backend, labels, tokens):
    backend.add_adapter(labels)
    session = MelleaSession(backend, ctx=SimpleContext())
    session.chat("Say something.", model_options=LENGTH)
    prompt, _ = counts(session.ctx.last_output())
    [verdict] = session.validate(req(CHECK))
    asked, cached = counts(verdict.thunk)
    assert cached == prompt + 19 and asked == prompt + 20 + tokens("<|im_end|>\n") + tokens_of_check(backend)


def test_a_system_prompt_is_kept_in_checks(backend, labels):
    backend.add_adapter(labels)
    for context in (ChatContext(), SimpleContext()):
        session = MelleaSession(backend, ctx=context)
        session.chat("Say something.", model_options={**LENGTH, "system": "Be brief."})
        prompt, _ = counts(session.ctx.last_output())
        [verdict] = session.validate(req(CHECK))
        assert counts(verdict.thunk)[1] >= prompt + 19


def test_a_chat_kept_as_text_is_found_again(backend, labels, tokens):
    backend.add_adapter(labels)
    session = MelleaSession(backend, ctx=ChatContext())
    said = [session.chat(text, model_options=LENGTH).content for text in ("Say something.", "And then?")]
    prompt, _ = counts(session.ctx.last_output())
    kept = ChatContext()
    for text, answer in zip(("Say something.", "And then?"), said, strict=True):
        kept = kept.add(Message("user", text)).add(Message("assistant", answer))
    again = MelleaSession(backend, ctx=kept)
    again.chat("Go on.", model_options=LENGTH)
    asked, cached = counts(again.ctx.last_output())
    assert (asked, cached) == (prompt + 20 + turn(tokens, "Go on."), prompt + 19)
    [verdict] = MelleaSession(backend, ctx=kept.add(ModelOutputThunk("One more."))).validate(req(CHECK))
    assert counts(verdict.thunk)[1] >= prompt + 19


def test_generated_ids_that_no_text_gives_are_found(backend):
    """Random ids are hardly ever what their text would be tokenized as; the cache only knows the former."""
    session = MelleaSession(backend, ctx=ChatContext())
    session.chat("Say something.", model_options={**LENGTH, "max_tokens": 60})
    output = session.ctx.last_output()
    assert backend.engine.tokenizer.encode(output.value, add_special_tokens=False) != output.raw.response.token_ids
    session.chat("Go on.", model_options=LENGTH)
    assert counts(session.ctx.last_output())[1] == counts(output)[0] + 59


def test_an_adapter_function_computes_its_instruction(backend, new_adapter, tokens):
    io = YES_NO | {"response_format": None, "transformations": None}
    backend.add_adapter(new_adapter("judge", OPENING, io | {"response_format": '{"type": "boolean"}'}))
    from mellea.backends.adapters import AdapterType
    from mellea.stdlib.components import Intrinsic

    session = MelleaSession(backend, ctx=ChatContext())
    session.chat("Say something.", model_options=LENGTH)
    prompt, _ = counts(session.ctx.last_output())
    action = Intrinsic("judge", intrinsic_kwargs={"requirement": "Be brief."}, adapter_types=(AdapterType.ALORA,))
    thunk = session.act(action, strategy=None)
    shown = "<requirements>: Be brief.\nSatisfied?"
    assert counts(thunk) == (prompt + 20 + turn(tokens, shown), prompt + 19)


def test_a_branch_of_a_context_reads_its_trunk_once(backend):
    session = MelleaSession(backend, ctx=ChatContext())
    session.chat("Say something.", model_options=LENGTH)
    prompt, _ = counts(session.ctx.last_output())
    left, right = session.clone(), session.clone()
    for branch, text in ((left, "Left?"), (right, "Right?")):
        branch.chat(text, model_options=LENGTH)
        assert counts(branch.ctx.last_output())[1] >= prompt + 19
    assert len(session.ctx.as_list()) == 2


def answer(text):
    return {"role": "assistant", "content": text}


def test_texts_are_forgotten_oldest_first():
    texts, asked = GeneratedTexts(max_texts=3, max_tokens=100), [{"role": "user", "content": "x"}]

    def known():
        return [texts.restore([*asked, answer(f"text {i}")])[1].get("token_ids") for i in range(4)]

    for index in range(4):
        texts.add(asked, f"text {index}", [index] * 10)
    assert known() == [None, [1] * 10, [2] * 10, [3] * 10]
    texts.restore([*asked, answer("text 1")])
    texts.add(asked, "long", [9] * 85)
    assert known() == [None, [1] * 10, None, None]
    texts.add(asked, "text 1", [8])
    assert known()[1] == [8]
    texts.add(asked, "too long", [1] * 101)
    assert "token_ids" not in texts.restore([*asked, answer("too long")])[1]


def test_a_text_is_restored_where_it_was_said():
    """Two chats may hold the same text as different ids, so that neither may get the other's."""
    texts = GeneratedTexts()
    one, two = [{"role": "user", "content": "one"}], [{"role": "user", "content": "two"}]
    texts.add(one, "same", [1, 2])
    texts.add(two, "same", [3])
    assert texts.restore([*one, answer("same")])[1]["token_ids"] == [1, 2]
    assert texts.restore([*two, answer("same")])[1]["token_ids"] == [3]
    for chat in ([answer("same")], [*one, {"role": "user", "content": "same"}], [*one, *two, answer("same")]):
        assert texts.restore(chat) == chat
    assert texts.restore([answer(None)]) == [answer(None)]


def test_texts_may_be_shared_by_threads():
    texts, errors = GeneratedTexts(max_texts=2), []

    def work(index):
        try:
            for i in range(1000):
                texts.add([], f"text {i % 5}", [i])
                texts.restore([answer(f"text {(i + index) % 5}")])
        except BaseException as exc:
            errors.append(exc)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors
