"""What ``m alora generate`` does once its flags are read."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import typer

from alorakit.bindings.checks.answering import answer_ids
from alorakit.bindings.cli.adapters import add_adapters
from alorakit.bindings.cli.prompts import Ask
from alorakit.engine.adapters import AdapterInfo
from alorakit.engine.engine import Engine
from alorakit.engine.errors import ConfigError
from alorakit.engine.request import RequestOutput, SamplingParams

# Prompts in one call of the engine: enough to fill its batches, and answers come out before the last one is done.
PROMPTS_PER_CALL = 256


@dataclass(frozen=True)
class Job:
    """One call of the command.

    Attributes:
        model: Hub id or folder.
        asks: What to answer.
        folders: Adapters by name, each of which answers everything; empty: the base model does.
        params: How to decode.
        chat: Whether a prompt is a user's message; None: if the model has a chat template.
        system: System message before every chat, or None.
        requirement: For adapters trained with requirements, or None.
        stream: Print the only answer while it is written.
        as_json: Print JSON lines.
        device: As in ``EngineConfig``.
        dtype: As in ``EngineConfig``.
    """

    model: str
    asks: list[Ask]
    folders: dict[str, Path]
    params: SamplingParams
    chat: bool | None
    system: str | None
    requirement: str | None
    stream: bool
    as_json: bool
    device: str
    dtype: str


def run(job: Job) -> None:
    """Answer, and print the answers in the order of prompts, adapters and samples.

    Raises:
        AlorakitError: A prompt, a parameter or an adapter cannot be used.
    """
    with Engine.from_pretrained(job.model, device=job.device, dtype=job.dtype) as engine:
        infos: list[AdapterInfo | None] = [*add_adapters(engine, job.folders)] or [None]
        asked = [(at, info, _prompt(engine, job, ask, info)) for at, ask in enumerate(job.asks) for info in infos]
        if job.stream:
            _stream(engine, job, asked[0][2], infos[0])
            return
        total = len(asked) * job.params.n
        for number, (at, output) in enumerate(_outputs(engine, job, asked), 1):
            if job.as_json:
                typer.echo(json.dumps(as_object(output, at), ensure_ascii=False))
            else:
                typer.echo(f"{_heading(output, at, number, total, job.params.n)}{output.text}")


def as_object(output: RequestOutput, prompt: int) -> dict[str, Any]:
    """An output as JSON tells it; log-probabilities only where they were asked for."""
    found = asdict(output)
    kept = ["text", "token_ids", "finish_reason", "adapter", "activation", "usage", "timing"]
    kept += [name for name in ("logprobs", "prompt_logprobs") if found[name] is not None]
    return {"prompt": prompt, "sample": output.sample_index, **{name: found[name] for name in kept}}


def _prompt(engine: Engine, job: Job, ask: Ask, info: AdapterInfo | None) -> str | list[int]:
    chat = job.chat if job.chat is not None else ask.messages is not None or engine.tokenizer.chat_template is not None
    if not chat:
        if ask.prompt is None or job.system is not None or job.requirement is not None:
            raise ConfigError("messages, --system and --requirement are parts of a chat; give --chat, or prompts alone")
        return ask.prompt
    messages = [*(ask.messages or [{"role": "user", "content": ask.prompt}])]
    system = [] if job.system is None else [{"role": "system", "content": job.system}]
    return answer_ids(engine.tokenizer, info, [*system, *messages], job.requirement)


def _outputs(
    engine: Engine, job: Job, asked: list[tuple[int, AdapterInfo | None, str | list[int]]]
) -> Iterator[tuple[int, RequestOutput]]:
    for first in range(0, len(asked), PROMPTS_PER_CALL):
        part = asked[first : first + PROMPTS_PER_CALL]
        adapters = [None if info is None else info.name for _, info, _ in part]
        for output in engine.generate([prompt for _, _, prompt in part], job.params, adapters):
            yield part[output.prompt_index][0], output


def _stream(engine: Engine, job: Job, prompt: str | list[int], info: AdapterInfo | None) -> None:
    try:
        for chunk in engine.stream(prompt, job.params, None if info is None else info.name):
            typer.echo(chunk.text, nl=False)
    finally:
        typer.echo()


def _heading(output: RequestOutput, at: int, number: int, total: int, n: int) -> str:
    """What tells several answers apart; nothing before a single one."""
    if total == 1:
        return ""
    sample = f", sample {output.sample_index + 1}" if n > 1 else ""
    adapter = f", {output.adapter}" if output.adapter is not None else ""
    return f"{'' if number == 1 else chr(10)}== prompt {at + 1}{sample}{adapter}\n"
