"""The model card of an adapter folder, made again from the files that lie in it."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from alorakit.engine.adapter_config import AdapterConfig
from alorakit.engine.errors import AdapterError, ConfigError
from alorakit.engine.files import read_json_object
from alorakit.engine.manifest import Manifest
from alorakit.training.adapter_folder import PICTURE_NAME
from alorakit.training.card import CardFacts, card_head, facts_of, model_card
from alorakit.training.card_code import FOLDER, literal
from alorakit.training.card_mark import marked
from alorakit.training.config import TrainConfig
from alorakit.training.markdown import block, code_span, paragraphs, table
from alorakit.training.report import REPORT_NAME, TrainReport

_SETTINGS = ("r", "lora_alpha", "target_modules", "lora_dropout", "rank_pattern", "alpha_pattern", "use_rslora")


def card_of(folder: Path, base_model: str | None = None) -> str:
    """Text of ``README.md``: the one that training wrote, or of a foreign adapter what its configuration says.

    Args:
        folder: The adapter folder.
        base_model: Name of the base model to write; None: the one that the folder names.

    Raises:
        AdapterError: No adapter, or a file of it cannot be read.
    """
    parsed, manifest = AdapterConfig.load(folder), Manifest.load(folder)
    named = base_model or (manifest.base_model if manifest is not None else "") or parsed.base_model
    if manifest is None:
        return marked(_foreign_card(parsed, named))
    manifest = replace(manifest, base_model=named)
    config, report = _run(folder, parsed)
    picture = (folder / PICTURE_NAME).is_file()
    return model_card(manifest, config, CardFacts(picture=picture) if report is None else facts_of(report, picture))


def _run(folder: Path, parsed: AdapterConfig) -> tuple[TrainConfig | Mapping[str, Any], TrainReport | None]:
    """Settings and figures of the run; without ``training.json``, what the adapter's configuration says of them."""
    path = folder / REPORT_NAME
    if not path.is_file():
        return _settings(parsed), None
    remedy = "take the file away to make the card without it"
    raw = read_json_object(path, AdapterError, remedy)
    report = TrainReport.load(folder)
    try:
        if report is None or not isinstance(raw["config"], dict):
            raise ValueError("not what training writes")
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in raw["config"].items()
        }
        return TrainConfig(**values), report
    except (KeyError, TypeError, ValueError, ConfigError) as exc:
        raise AdapterError(f"{path}: cannot be used ({exc}); {remedy}") from exc


def _settings(parsed: AdapterConfig) -> dict[str, Any]:
    found = {name: parsed.raw[name] for name in _SETTINGS if parsed.raw.get(name) not in (None, {}, False)}
    kind = "lora" if parsed.invocation_tokens is None else "alora"
    listed = {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}
    return {"adapter": kind, **listed}


def _foreign_card(parsed: AdapterConfig, base_model: str) -> str:
    alora = parsed.invocation_tokens is not None
    kind = "Activated LoRA" if alora else "LoRA"
    settings = [(name, code_span(str(value))) for name, value in _settings(parsed).items()]
    tokens = [("invocation tokens", code_span(str(list(parsed.invocation_tokens or ()))))] if alora else []
    base = literal(base_model)
    return paragraphs(
        card_head("alora" if alora else "lora", base_model),
        f"# {kind} for {code_span(base_model)}",
        "The weights are active from the last occurrence of the invocation tokens in the prompt on." if alora else "",
        table(("", ""), [("base model", code_span(base_model)), *tokens, *settings]),
        "## Use in alorakit",
        block(
            f"from alorakit import Engine\n\nengine = Engine.from_pretrained({base})\n"
            f'engine.add_adapter("adapter", {literal(FOLDER)})',
            "python",
        ),
        "## Use in PEFT",
        block(
            "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n\n"
            f"model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained({base}), {literal(FOLDER)})",
            "python",
        ),
        "## Limits\n\n- How it was trained, on what, and what to ask it is not known to who made this card.",
    )
