"""The programs of a model card: each asks an adapter exactly as it was trained."""

import json
import re

from alorakit.engine.manifest import Manifest
from alorakit.training.io_yaml import passing, response_format

FOLDER = "path/to/this/folder"
TEXT = "The text to check."
REQUIREMENT = "A requirement worded as in the training rows."
_TEXT_TOKENS = 256
_PLAIN = re.compile(r"\w(?:[\w .-]*\w)?")


def engine_code(manifest: Manifest, alora: bool) -> str:
    """The engine of alorakit: every label scored, or a text generated."""
    imports, ask = "Engine", 'scores = engine.score(ids, list(adapter.manifest.labels), adapter="check")'
    show = "print(scores.best.text, scores.best.probability)"
    if manifest.answer == "text":
        schema = f", structured={response_format(manifest)!r}" if manifest.field is not None else ""
        imports = "Engine, SamplingParams"
        ask = (
            f"params = SamplingParams(max_tokens={_TEXT_TOKENS}{schema})\n"
            '[answer] = engine.generate(ids, params, adapter="check")'
        )
        show = "print(answer.text)"
    if manifest.layout == "mellea":
        laid_out = f"ids = engine.tokenizer.encode({_mellea_prompt(manifest)}, add_special_tokens=False)"
    else:
        invocation = (
            "list(adapter.invocation_tokens)"
            if alora
            else f"engine.tokenizer.encode({literal(manifest.invocation)}, add_special_tokens=False)"
        )
        laid_out = f"{_chat(manifest)}\nids = engine.tokenizer.render(chat) + {invocation}"
    return f"""\
from alorakit import {imports}

engine = Engine.from_pretrained({literal(manifest.base_model)})
adapter = engine.add_adapter("check", {literal(FOLDER)})

{laid_out}
{ask}
{show}"""


def session_code(manifest: Manifest) -> str | None:
    """The session of alorakit: generate, check, try again; None where no requirement can be worded for the labels."""
    requirement = requirement_text(manifest)
    if requirement is None:
        return None
    name = manifest.base_model.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]
    return f"""\
from alorakit import ChatContext, CustomIntrinsicAdapter, EngineBackend, MelleaSession, req

backend = EngineBackend(model_id={literal(manifest.base_model)})
backend.add_adapter(CustomIntrinsicAdapter(model_id={literal(FOLDER)}, base_model_name={literal(name)}))
m = MelleaSession(backend, ctx=ChatContext())
result = m.instruct("Write a summary: {{{{note}}}}", user_variables={{"note": "..."}}, requirements=[
    req({literal(requirement)}),
])
print(str(result))"""


def check_command(manifest: Manifest) -> str:
    """The command line's check."""
    asked = requirement_text(manifest) if manifest.requirements else None
    option = "" if asked is None else f' --requirement "{asked}"'
    return f'm alora check {FOLDER} "{TEXT}"{option}'


def requirement_text(manifest: Manifest) -> str | None:
    """A requirement that says which labels pass, if the manifest does not; None if no label can be quoted plainly."""
    passes = passing(manifest)
    if passes is not None and manifest.requirements:
        return REQUIREMENT
    plain = [label for label in sorted(passes or manifest.labels) if _PLAIN.fullmatch(label) and label.isprintable()]
    return f"It must be '{plain[0]}'." if manifest.answer == "label" and plain else None


def peft_code(manifest: Manifest, alora: bool) -> str:
    """PEFT and transformers: the prompt as trained, the answer decoded greedily."""
    invocation = (
        'model.peft_config["default"].alora_invocation_tokens'
        if alora
        else f"tokenizer({literal(manifest.invocation)}, add_special_tokens=False).input_ids"
    )
    if manifest.layout == "mellea":
        laid_out = f"ids = tokenizer({_mellea_prompt(manifest)}, add_special_tokens=False).input_ids"
    else:
        laid_out = (
            f"{_chat(manifest)}\n"
            "context = tokenizer.apply_chat_template(chat, tokenize=False)\n"
            f"ids = tokenizer(context, add_special_tokens=False).input_ids + {invocation}"
        )
    base = literal(manifest.base_model)
    return f"""\
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({base})
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained({base}), {literal(FOLDER)})

{laid_out}
prompt = torch.tensor([ids])
output = model.generate(
    input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens={_max_tokens(manifest)}, do_sample=False,
    eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.eos_token_id,
)
print(tokenizer.decode(output[0, len(ids):], skip_special_tokens=True))"""


def mellea_code(manifest: Manifest, alora: bool) -> str:
    """Mellea 0.8: its Hugging Face backend for a LoRA; for an aLoRA, which that leaves without effect, its rewriter."""
    requirement = literal(REQUIREMENT)
    if alora:
        given = f", requirement={requirement}" if manifest.requirements else ""
        return f"""\
from mellea.formatters.granite import IntrinsicsResultProcessor, IntrinsicsRewriter

contract = {literal(FOLDER + "/io.yaml")}
messages = [{{"role": "user", "content": {literal(TEXT)}}}]
rewriter = IntrinsicsRewriter(config_file=contract)
request = rewriter.transform({{"messages": messages}}{given})
print(request.model_dump())  # what to send to the server
processor = IntrinsicsResultProcessor(config_file=contract)
# processor.transform(response, request) reads what the server answers."""
    arguments = f'"requirement": {requirement}' if manifest.requirements else ""
    return f"""\
import mellea.stdlib.functional as mfuncs
from mellea.backends.adapters import Adapter, AdapterType, Identity, LocalFileBinding, get_io_contract
from mellea.backends.huggingface import LocalHFBackend
from mellea.stdlib.components import Intrinsic, Message
from mellea.stdlib.context import ChatContext

backend = LocalHFBackend({literal(manifest.base_model)})
weights = LocalFileBinding(name="check", adapter_type=AdapterType.LORA, repo_id="user/repository", revision="main")
backend.add_adapter(Adapter(Identity("check", "lora"), get_io_contract("check"), weights))

context = ChatContext().add(Message("user", {literal(TEXT)}))
action = Intrinsic("check", adapter_types=(AdapterType.LORA,), intrinsic_kwargs={{{arguments}}})
answer, _ = mfuncs.act(action, context, backend, strategy=None)
print(answer.value)"""


def literal(text: str) -> str:
    """A text as Python source, on one line."""
    return json.dumps(text, ensure_ascii=False) if text.isprintable() else repr(text)


def _chat(manifest: Manifest) -> str:
    """The chat that is rendered before the invocation."""
    chat = f'chat = [{{"role": "user", "content": {literal(TEXT)}}}]'
    if manifest.requirements:
        chat += f'\nchat.append({{"role": "user", "content": "Requirement: " + {literal(REQUIREMENT)}}})'
    return chat


def _mellea_prompt(manifest: Manifest) -> str:
    """The expression of the text that layout ``mellea`` tokenizes whole."""
    item = f"{TEXT}\n{REQUIREMENT}" if manifest.requirements else TEXT
    return f'{literal(item)} + "\\nRequirement: <|end_of_text|>\\n" + {literal(manifest.invocation)}'


def _max_tokens(manifest: Manifest) -> int:
    if manifest.answer == "text" or not manifest.labels:
        return _TEXT_TOKENS
    return max(len(label.encode()) for label in manifest.labels) + 2  # end of sequence, and a leading space
