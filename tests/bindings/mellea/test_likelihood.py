"""Likelihoods equal those of Mellea's own path (transformers, PEFT, llguidance) on the same model and prompt."""

import json
import math

import pytest
from mellea import MelleaSession
from mellea.backends.adapters import AdapterType
from mellea.stdlib.components import Document, Intrinsic, Message
from mellea.stdlib.context import ChatContext

from alorakit.engine.request import SamplingParams
from tests.bindings.mellea import transformers_path
from tests.bindings.mellea.conftest import OPENING, YES_NO

CHAT = [{"role": "user", "content": "The pump leaks."}]
ASKED = {"requirement": "It must be short."}
DOCUMENTS = ("The pump leaks. It is old. It was mended twice.", "A seal costs little.")


def io_of(schema, categories):
    _, *nests = YES_NO["transformations"]
    rule = {"type": "likelihood", "input_path": [], "categories_to_values": categories}
    return YES_NO | {"response_format": json.dumps(schema), "transformations": [rule, *nests]}


def likely_letters(engine, num):
    """Letters among the hundred tokens that the adapter finds likeliest after an opening quote."""
    tokenizer = engine.tokenizer
    asked = YES_NO["instruction"].format(**ASKED)
    ids = tokenizer.render([*CHAT, {"role": "user", "content": asked}], add_generation_prompt=True)
    ids += tokenizer.encode('"', add_special_tokens=False)
    [output] = engine.generate(ids, SamplingParams(max_tokens=1, logprobs=100), adapter="probe")
    return [text for i in output.logprobs[0] if len(text := tokenizer.text_of(i)) == 1 and text.isalpha()][:num]


def score_here(backend, folder):
    backend.add_adapter(folder)
    session = MelleaSession(backend, ctx=ChatContext().add(Message("user", CHAT[0]["content"])))
    action = Intrinsic(folder.name, intrinsic_kwargs=ASKED, adapter_types=(AdapterType.ALORA, AdapterType.LORA))
    return json.loads(session.act(action, strategy=None).value)["requirement_check"]["score"]


def score_in_mellea(io, base, folder):
    result = transformers_path.result(io, {"messages": CHAT}, ASKED, base, folder)
    return json.loads(result)["requirement_check"]["score"]


@pytest.mark.parametrize("invocation", [OPENING, None], ids=["alora", "lora"])
def test_likelihoods_of_words(backend, base, new_adapter, invocation):
    backend.engine.add_adapter("probe", new_adapter("probe", invocation, seed=7))
    words = likely_letters(backend.engine, 3)
    io = io_of({"type": "string", "enum": words}, dict(zip(words, (1.0, 0.25, 0.0), strict=True)))
    folder = new_adapter("words", invocation, io, seed=7)
    here, there = score_here(backend, folder), score_in_mellea(io, base, folder)
    assert here == pytest.approx(there, abs=1e-5)
    assert here not in (0.0, 0.25, 1.0)


def test_a_category_beyond_the_hundred_likeliest_counts_as_nothing(backend, base, new_adapter, answered):
    """The engine reports a hundred of all tokens, Mellea ten of those allowed: scores differ by what is left out."""
    io = io_of({"type": "string", "enum": ["yes", "no"]}, {"yes": 1.0, "no": 0.0})
    folder = new_adapter("words", OPENING, io, seed=3)
    here, there = score_here(backend, folder), score_in_mellea(io, base, folder)
    [output] = answered
    top = output.logprobs[1]
    chosen = top[output.token_ids[1]]
    left_out = math.exp(min(value for i, value in top.items() if i != output.token_ids[1]) - chosen)
    assert here == pytest.approx(there, abs=1e-5 + left_out)


def test_sentences_end_to_end(backend, base, new_adapter):
    io = {
        "model": None,
        "response_format": json.dumps({"type": "array", "items": {"enum": [0, 1, 2, 3]}, "minItems": 2, "maxItems": 2}),
        "transformations": [
            {"type": "nest", "input_path": [None], "field_name": "at"},
            {
                "type": "decode_sentences",
                "input_path": [None, "at"],
                "source": "documents",
                "output_names": {"begin": "begin", "end": "end", "text": "text", "document_id": "document"},
            },
        ],
        "sentence_boundaries": {"documents": "c"},
        "instruction": "Which sentences?",
        "parameters": {"max_completion_tokens": 80, "temperature": 0.0},
    }
    folder = new_adapter("cite", OPENING, io, seed=4)
    backend.add_adapter(folder)
    documents = [Document(text, doc_id=str(index)) for index, text in enumerate(DOCUMENTS)]
    session = MelleaSession(backend, ctx=ChatContext().add(Message("user", "The pump leaks.", documents=documents)))
    action = Intrinsic("cite", adapter_types=(AdapterType.ALORA,))
    here = session.act(action, strategy=None, model_options={"max_new_tokens": 80})
    prompt = here._generate_log.prompt
    request = {
        "messages": [{"role": "user", "content": prompt[0]["content"]}],
        "extra_body": {"documents": [{"text": d.text, "doc_id": d.doc_id} for d in documents]},
    }
    assert here.value == transformers_path.result(io, request, {}, base, folder)
    assert {item["text"].strip(" .") for item in json.loads(here.value)} <= {
        "The pump leaks", "It is old", "It was mended twice", "A seal costs little"
    }  # fmt: skip
