"""Mellea's own session at work on ``session_programs``, in a process of its own: Mellea lies outside the environment.

``python mellea_side.py <folder that holds mellea>`` prints what comes out, and Mellea's signatures.
"""

import json
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from session_cases import cases
from session_programs import PROGRAMS, SIGNATURES, options, parameters, rendered


def mellea_names() -> SimpleNamespace:
    from mellea.backends.model_options import ModelOption
    from mellea.core import CBlock, Component, ModelOutputThunk, SamplingResult, ValidationResult
    from mellea.core.requirement import default_output_to_bool
    from mellea.stdlib import components, context, requirements, sampling, session
    from mellea.stdlib.requirements.requirement import reqify

    names = {"ModelOption": ModelOption, "CBlock": CBlock, "Component": Component, "ModelOutputThunk": ModelOutputThunk}
    names |= {"SamplingResult": SamplingResult, "ValidationResult": ValidationResult, "reqify": reqify}
    names["default_output_to_bool"] = default_output_to_bool
    for module in (components, context, requirements, sampling, session):
        names = {**{k: v for k, v in vars(module).items() if not k.startswith("_")}, **names}
    return SimpleNamespace(**names)


def stub(answers: list[str], prompts: list[str], model_options: dict[str, Any] | None) -> Any:
    """A backend of Mellea that answers from a list."""
    from mellea.backends.model_options import ModelOption
    from mellea.backends.utils import to_chat
    from mellea.core import Backend, GenerateLog, GenerateType, ModelOutputThunk
    from mellea.formatters import TemplateFormatter

    class Stub(Backend):
        model_id, _model_id, _provider = "stub", "stub", "stub"

        async def _generate_from_context(self, action: Any, ctx: Any, **given: Any) -> Any:
            merged = {**(model_options or {}), **(given["model_options"] or {})}
            chat = to_chat(action, ctx, TemplateFormatter("stub"), merged.get(ModelOption.SYSTEM_PROMPT))
            prompts.append("".join(f"<{m['role']}>{m['content']}" for m in chat) + "<assistant>")
            thunk = ModelOutputThunk(None)
            thunk._call.action, thunk._gen.generate_type = action, GenerateType.ASYNC

            async def process(output: Any, piece: str) -> None:
                output._underlying_value = (output._underlying_value or "") + piece

            async def log(output: Any) -> None:
                output._generate_log = GenerateLog(prompt=chat)

            thunk._gen.process, thunk._gen.post_process = process, log
            for piece in (answers.pop(0), None):
                thunk._gen.queue.put_nowait(piece)
            return thunk, ctx.add(action).add(thunk)

        async def _generate_from_raw(self, *args: Any, **kwargs: Any) -> Any:
            raise NotImplementedError

    return Stub()


def main() -> None:
    sys.path.append(sys.argv[1])
    api = mellea_names()

    def run(program: Callable[[Any, Callable[..., Any]], Any]) -> Any:
        prompts: list[str] = []

        def session(answers: list[str], model_options: dict[str, Any] | None = None, chat: bool = True) -> Any:
            context = api.ChatContext() if chat else api.SimpleContext()
            return api.MelleaSession(stub(answers, prompts, model_options), context)

        return [program(api, session), prompts]

    found = {
        "signatures": {name: parameters(api, name) for name in SIGNATURES},
        "options": options(api),
        "programs": {name: run(program) for name, program in PROGRAMS.items()},
        "cases": [run(lambda names, session, c=case: rendered(names, session, c)) for case in cases()],
    }
    print("\n" + json.dumps(found))


if __name__ == "__main__":
    main()
