"""Mellea's own code at work on an ``io.yaml``, in a process of its own: Mellea lies outside the environment.

``python mellea_reader.py <folder that holds mellea>`` reads a JSON list of cases and prints a list of what came out.
"""

import json
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(sys.prefix) / "mellea"


def mellea_folder() -> Path:
    """Where make test installs Mellea; in an environment that make has not made, the test is skipped."""
    import pytest

    if not (FOLDER / "mellea").is_dir():
        if (Path(sys.prefix) / ".test").exists():
            pytest.fail(f"{FOLDER} is missing from an environment that make has made; run make test again")
        pytest.skip(f"Mellea is not in {FOLDER}, where make test installs it")
    return FOLDER


def main() -> None:
    sys.path.insert(0, sys.argv[1])
    print(json.dumps([run(**case) for case in json.load(sys.stdin)]))


def run(
    config: str,
    messages: list[dict[str, str]],
    arguments: dict[str, str],
    answer: str | None = None,
    tokens: list[dict[str, Any]] | None = None,
    model: str | None = None,
) -> dict[str, Any]:
    """What Mellea asks for, and what it makes of the answer given, or of the one that ``model`` generates."""
    from mellea.backends.adapters import get_io_contract
    from mellea.formatters.granite import ChatCompletionResponse, IntrinsicsResultProcessor, IntrinsicsRewriter

    request = IntrinsicsRewriter(config_file=config).transform({"messages": messages}, **arguments)
    if model is not None:
        response = generated(request.model_dump(), model)
    else:
        logprobs = {} if tokens is None else {"logprobs": {"content": tokens}}
        message = {"role": "assistant", "content": answer}
        response = ChatCompletionResponse.model_validate({"choices": [{"index": 0, "message": message, **logprobs}]})
    said = response.choices[0].message.content
    try:
        result = IntrinsicsResultProcessor(config_file=config).transform(response, request).choices[0].message.content
        get_io_contract("an adapter that is in no catalog").parse(result)
    except ValueError as exc:
        result = f"{type(exc).__name__}: {exc}"
    return {"request": request.model_dump(), "answer": said, "result": result}


def generated(request: dict[str, Any], model: str) -> Any:
    """An answer as ``LocalHFBackend`` generates it."""
    from mellea.formatters.granite.base import util
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, loaded = AutoTokenizer.from_pretrained(model), AutoModelForCausalLM.from_pretrained(model)
    loaded.vocab_size = loaded.config.vocab_size  # Mellea reads it where older versions of transformers had it
    return util.generate_with_transformers(
        tokenizer, loaded, *util.chat_completion_request_to_transformers_inputs(request, tokenizer, loaded)
    )


if __name__ == "__main__":
    main()
