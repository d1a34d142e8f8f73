"""Adapter functions as Mellea's own backend runs them: its rewriter, transformers with PEFT, its result processor."""

import copy
from pathlib import Path
from typing import Any

import torch

from tests.engine.conftest import reference


def result(io: dict[str, Any], request: dict[str, Any], arguments: dict[str, str], base: Path, adapter: Path) -> str:
    """What Mellea makes of what the adapter generates for a request in the OpenAI form."""
    from mellea.formatters.granite import IntrinsicsRewriter
    from mellea.formatters.granite.base import util
    from transformers import AutoTokenizer

    rewritten = IntrinsicsRewriter(config_dict=copy.deepcopy(io)).transform(request, **arguments)
    tokenizer, model = AutoTokenizer.from_pretrained(base), reference(base, adapter)
    model.vocab_size = model.config.vocab_size  # Mellea reads it where older versions of transformers had it
    inputs = util.chat_completion_request_to_transformers_inputs(rewritten.model_dump(), tokenizer, model)
    with torch.compiler.set_stance("force_eager"):  # llguidance would have its mask's three lines compiled
        response = util.generate_with_transformers(tokenizer, model, *inputs)
    return processed(io, request, arguments, response)


def processed(io: dict[str, Any], request: dict[str, Any], arguments: dict[str, str], response: Any) -> str:
    """What Mellea makes of an answer, a response or its text."""
    from mellea.formatters.granite import ChatCompletionResponse, IntrinsicsResultProcessor, IntrinsicsRewriter

    if isinstance(response, str):
        choice = {"index": 0, "message": {"role": "assistant", "content": response}}
        response = ChatCompletionResponse.model_validate({"choices": [choice]})
    rewritten = IntrinsicsRewriter(config_dict=copy.deepcopy(io)).transform(request, **arguments)
    made = IntrinsicsResultProcessor(config_dict=copy.deepcopy(io)).transform(response, rewritten)
    return str(made.choices[0].message.content)
