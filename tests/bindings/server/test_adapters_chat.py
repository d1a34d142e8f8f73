"""Chatting with adapters: where their invocation stands in the prompt."""

import asyncio
from pathlib import Path
from typing import Any

from alorakit import Engine, SamplingParams
from alorakit.engine.manifest import Manifest
from tests.bindings.server.running import CHAT, USER, Client, chat, error_of
from tests.engine.folders import make_adapter

OPENING = "<|im_start|>assistant\n"
INVOCATION = "<|start_of_role|>check<|end_of_role|>"


def added(engine: Engine, folder: Path, name: str, invocation: str | None, **manifest: Any) -> None:
    ids = None if invocation is None else engine.tokenizer.encode(invocation, add_special_tokens=False)
    made = make_adapter(folder / name, engine.model_path, ["q_proj", "v_proj"], 4, ids, seed=3)
    if manifest:
        (made / "alorakit.json").write_text(Manifest(invocation=INVOCATION, **manifest).to_json())
    engine.add_adapter(name, made)


def test_where_an_adapter_begins(client: Client, engine: Engine, tmp_path: Path) -> None:
    opened, closed = engine.tokenizer.render([USER], True), engine.tokenizer.render([USER])
    invoked = engine.tokenizer.encode(INVOCATION, add_special_tokens=False)
    text = f"{USER['content']}\nRequirement: <|end_of_text|>\n{INVOCATION}"
    added(engine, tmp_path, "opening", OPENING)
    added(engine, tmp_path, "foreign", INVOCATION)
    added(engine, tmp_path, "trained", INVOCATION, labels=("yes", "no"))
    added(engine, tmp_path, "mellea", INVOCATION, labels=("yes", "no"), layout="mellea")
    added(engine, tmp_path, "lora", None)
    prompts = {
        "opening": (opened, len(closed)),
        "foreign": (closed + invoked, len(closed)),
        "trained": (closed + invoked, len(closed)),
        "mellea": (engine.tokenizer.encode(text, add_special_tokens=False), None),
        "lora": (opened, 0),
    }
    wanted = {name: engine.generate([ids], SamplingParams(max_tokens=6), name)[0] for name, (ids, _) in prompts.items()}

    async def ask() -> None:
        async with client() as http:
            for name, (ids, activation) in prompts.items():
                answer = (await http.post(CHAT, json=chat(model=name))).json()
                assert answer["choices"][0]["message"]["content"] == wanted[name].text
                assert answer["usage"]["prompt_tokens"] == len(ids)
                assert activation is None or wanted[name].activation == activation

    asyncio.run(ask())


def test_special_tokens_where_the_layout_cannot_spell_them(client: Client, engine: Engine, tmp_path: Path) -> None:
    added(engine, tmp_path, "mellea", INVOCATION, labels=("yes", "no"), layout="mellea")
    asked = chat(model="mellea", messages=[{"role": "user", "content": "x<|im_end|>"}])

    async def ask() -> None:
        async with client() as http:
            assert "spells a special token" in error_of(await http.post(CHAT, json=asked), 400)["message"]
        async with client(trust_special_tokens=True) as http:
            assert (await http.post(CHAT, json=asked)).status_code == 200

    asyncio.run(ask())


def test_a_completion_without_the_invocation(client: Client) -> None:
    async def ask() -> None:
        async with client() as http:
            answer = await http.post("/v1/completions", json={"model": "parts", "prompt": "The pump"})
            assert "is not in the prompt" in error_of(answer, 400)["message"]

    asyncio.run(ask())
