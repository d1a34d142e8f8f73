"""Mellea's own OpenAIBackend chats through the server."""

import sys
from collections.abc import Callable

from alorakit import Engine, SamplingParams
from tests.bindings.server.running import Running
from tests.training.mellea_reader import mellea_folder


def test_openai_backend(live: Callable[..., Running], engine: Engine) -> None:
    sys.path.append(str(mellea_folder()))
    from mellea import MelleaSession
    from mellea.backends import ModelOption
    from mellea.backends.openai import OpenAIBackend
    from mellea.stdlib.context import ChatContext

    server = live(api_keys=("secret",))
    options = {ModelOption.MAX_NEW_TOKENS: 8, ModelOption.TEMPERATURE: 0.0}
    backend = OpenAIBackend("tiny", base_url=f"{server.url}/v1", api_key="secret", model_options=options)
    session = MelleaSession(backend, ctx=ChatContext())
    first = str(session.chat("The pump vibrates.").content)
    second = str(session.chat("And the second cylinder?").content)
    chat = [
        {"role": "user", "content": "The pump vibrates."},
        {"role": "assistant", "content": first},
        {"role": "user", "content": "And the second cylinder?"},
    ]
    server.served.detach()
    params = SamplingParams(max_tokens=8)
    history = server.app.state.alorakit.history.restore(chat)
    assert "token_ids" in history[1]
    asked = [engine.tokenizer.render(chat[:1], True), engine.tokenizer.render(history, True)]
    assert [first, second] == [output.text for output in engine.generate(asked, params)]
