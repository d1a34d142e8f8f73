"""Each transformation of io.yaml, through the backend, gives what Mellea's own result processor gives."""

import json

import pytest
from mellea import MelleaSession
from mellea.backends.adapters import AdapterType
from mellea.stdlib.components import Document, Intrinsic, Message
from mellea.stdlib.context import ChatContext

from alorakit.engine.errors import CheckError
from tests.bindings.mellea import transformers_path
from tests.bindings.mellea.conftest import OPENING

DOCUMENTS = [("The pump leaks. It is old.", "a"), ("A seal costs little.", "b")]
SAID = "It leaks. Replace the seal."
DECODE = {
    "type": "decode_sentences",
    "input_path": [None, "c"],
    "source": "documents",
    "output_names": {"begin": "begin", "end": "end", "text": "text", "document_id": "doc"},
}
DECODE_REPLY = {
    "type": "decode_sentences",
    "input_path": [None, "r"],
    "source": "last_message",
    "output_names": {"begin": "from", "end": "to", "text": "said"},
}
EXPLODE = {"type": "explode", "input_path": [], "target_field": "c"}
NEST = {"type": "nest", "input_path": [], "field_name": "citations"}
MERGE = {
    "type": "merge_spans", "input_path": [], "group_fields": ["doc"], "begin_field": "begin", "end_field": "end",
    "text_field": "text",
}  # fmt: skip
ROWS = '[{"r": 0, "c": [0, 1]}, {"r": 1, "c": [2]}, {"r": 1, "c": [2]}]'
FLAT = [{"r": 0, "c": 0}, {"r": 0, "c": 1}, {"r": 1, "c": 2}, {"r": 1, "c": 2}]
CASES = {
    "explode": ([EXPLODE], ROWS, FLAT),
    "drop_duplicates": (
        [EXPLODE, {"type": "drop_duplicates", "input_path": [], "target_fields": ["r", "c"]}], ROWS, FLAT[:3],
    ),
    "project": (
        [{"type": "project", "input_path": [], "retained_fields": {"r": "reply"}}], ROWS,
        [{"reply": 0}, {"reply": 1}, {"reply": 1}],
    ),
    "nest": ([NEST], "[1]", {"citations": [1]}),
    "decode_sentences": (
        [DECODE, DECODE_REPLY], '[{"r": 1, "c": 2}]',
        [{"r": 1, "c": 2, "begin": 0, "end": 20, "text": "A seal costs little.", "doc": "b",
          "from": 10, "to": 27, "said": "Replace the seal."}],
    ),
    "merge_spans": (
        [MERGE],
        '[{"doc": "a", "begin": 0, "end": 5, "text": "12345"}, {"doc": "a", "begin": 5, "end": 7, "text": "67"}]',
        [{"doc": "a", "begin": 0, "end": 7, "text": "1234567"}],
    ),
    "all-in-a-row": (
        [EXPLODE, DECODE, {"type": "drop_duplicates", "input_path": [], "target_fields": ["r", "c"]},
         {"type": "project", "input_path": [], "retained_fields": ["begin", "end", "text", "doc"]}, MERGE, NEST],
        ROWS, None,
    ),
}  # fmt: skip


def io_of(rules, schema=None, **more):
    return {
        "model": None,
        "response_format": None if schema is None else json.dumps(schema),
        "transformations": rules,
        "sentence_boundaries": {"documents": "c", "last_message": "r"},
        "parameters": {"max_completion_tokens": 40},
        **more,
    }


def ask(backend, folder, model_options=None, **arguments):
    if f"{folder.name}_alora" not in backend.list_adapters():
        backend.add_adapter(folder)
    documents = [Document(text, doc_id=doc_id) for text, doc_id in DOCUMENTS]
    context = ChatContext().add(Message("user", "What now?", documents=documents)).add(Message("assistant", SAID))
    action = Intrinsic(folder.name, intrinsic_kwargs=arguments, adapter_types=(AdapterType.ALORA,))
    return MelleaSession(backend, ctx=context).act(action, strategy=None, model_options=model_options)


def request_of(thunk):
    """The chat that was asked about, as Mellea's rewriter takes it: without the marks that it put in."""
    first = thunk._generate_log.prompt[0]["content"]
    documents = [{"text": text, "doc_id": doc_id} for text, doc_id in DOCUMENTS]
    messages = [{"role": "user", "content": first}, {"role": "assistant", "content": SAID}]
    return {"messages": messages, "extra_body": {"documents": documents}}


@pytest.mark.parametrize("name", CASES)
def test_a_rule(name, backend, new_adapter, scripted):
    rules, answer, want = CASES[name]
    io = io_of(rules)
    folder = new_adapter("fn", OPENING, io)
    scripted(answer)
    thunk = ask(backend, folder)
    assert thunk.value == transformers_path.processed(io, request_of(thunk), {}, answer)
    assert want is None or json.loads(thunk.value) == want
    assert thunk._meta["alorakit"]["answer"] == answer


def test_all_in_a_row_cites(backend, new_adapter, scripted):
    rules, answer, _ = CASES["all-in-a-row"]
    scripted(answer)
    assert json.loads(ask(backend, new_adapter("fn", OPENING, io_of(rules))).value) == {
        "citations": [
            {"begin": 0, "end": 26, "text": "The pump leaks. It is old.", "doc": "a"},
            {"begin": 0, "end": 20, "text": "A seal costs little.", "doc": "b"},
        ]
    }


def likelihood(categories, schema):
    rule = {"type": "likelihood", "input_path": [], "categories_to_values": categories}
    return io_of([rule], schema, sentence_boundaries=None)


def test_a_token_without_text_is_no_category(backend, new_adapter, scripted, tokenizer):
    """An end-of-sequence token has no text, and every category begins with nothing."""
    io = likelihood({"no": 0.0, "yes": 1.0}, {"type": "string", "enum": ["yes", "no"]})
    scripted('"yes"', {tokenizer.eos_token_id: -0.1})
    assert ask(backend, new_adapter("fn", OPENING, io)).value == "1.0"


def test_a_token_that_the_grammar_forbids_is_no_category(backend, new_adapter, scripted, tokenizer):
    """False is how Python spells a category, but no JSON begins so."""
    io = likelihood({True: 1.0, False: 0.0}, {"type": "boolean"})
    [capital] = tokenizer.encode("F", add_special_tokens=False)
    scripted("true", {capital: -0.1})
    assert ask(backend, new_adapter("fn", OPENING, io)).value == "1.0"


def test_a_likelihood_weighs_what_the_grammar_allows(backend, new_adapter, scripted, tokenizer):
    io = likelihood({"n": 0.0, "y": 1.0}, {"type": "string", "enum": ["y", "n"]})
    [no] = tokenizer.encode("n", add_special_tokens=False)
    scripted('"y"', {no: -1.0})
    assert float(ask(backend, new_adapter("fn", OPENING, io)).value) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("rules", "answer"),
    [
        ([], "no JSON"),
        ([EXPLODE], "[1]"),
        ([DECODE], '[{"c": 99}]'),
        ([{"type": "project", "input_path": [], "retained_fields": ["a"]}], '["text"]'),
    ],
)
def test_an_answer_that_cannot_be_read_is_an_error_that_shows_it(rules, answer, backend, new_adapter, scripted):
    scripted(answer)
    with pytest.raises(CheckError, match="not what its io"):
        ask(backend, new_adapter("fn", OPENING, io_of(rules)))


def test_an_answer_that_was_cut_off_says_so(backend, new_adapter, scripted):
    scripted("[1, 2", reason="length")
    with pytest.raises(CheckError, match="raise max_new_tokens"):
        ask(backend, new_adapter("fn", OPENING, io_of([])))


def test_a_calls_own_limit_goes_before_that_of_io_yaml(backend, new_adapter):
    io = io_of([], {"type": "string", "minLength": 60}, parameters={"max_completion_tokens": 3})
    folder = new_adapter("fn", OPENING, io)
    with pytest.raises(CheckError, match="raise max_new_tokens"):
        ask(backend, folder)
    thunk = ask(backend, folder, {"max_new_tokens": 300})
    assert len(json.loads(thunk.value)) >= 60
    assert thunk.generation.usage["completion_tokens"] > 3
