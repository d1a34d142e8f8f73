"""``m alora check``: one check, and what it cost."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alorakit.bindings.adapter_names import adapter_name
from alorakit.bindings.cli.errors import Debug, reported
from alorakit.bindings.cli.options import AsJson, Device
from alorakit.engine.adapter_config import AdapterConfig
from alorakit.engine.config import EngineConfig
from alorakit.engine.errors import AdapterError, ModelNotFoundError
from alorakit.engine.pretrained import resolve_adapter

if TYPE_CHECKING:
    from alorakit.engine.engine import Engine


@dataclass(frozen=True)
class CheckReport:
    """One check on a context that the base model has just read.

    Attributes:
        label: The most probable label; of a text what it says, None where it lacks the adapter's field.
        probabilities: Probability of each label; empty for a text.
        passed: The verdict; None if nothing says which answers pass.
        context_tokens: Tokens of the text, which the base model read first.
        context_ms: Milliseconds that took.
        prompt_tokens: Tokens the check reads: the context, then requirement and invocation.
        reused_tokens: Those of them that the cache already held.
        check_ms: Milliseconds of the check.
        answer: The text that the adapter answers with; None if it answers with a label.
    """

    label: str | None
    probabilities: dict[str, float]
    passed: bool | None
    context_tokens: int
    context_ms: float
    prompt_tokens: int
    reused_tokens: int
    check_ms: float
    answer: str | None = None


def check(
    adapter: Annotated[
        str, typer.Argument(help="Adapter folder, or one of the Hub: org/name, org/name/its/folder, org/name@revision.")
    ],
    text: Annotated[str, typer.Argument(help="The text to check.")],
    requirement: Annotated[str | None, typer.Option(help="Requirement, e.g. \"must not be 'no_failure'\".")] = None,
    basemodel: Annotated[str | None, typer.Option(help="Base model; default: the one the adapter names.")] = None,
    device: Device = EngineConfig.device,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Check a text with an adapter: label and probabilities or the text it writes, tokens reused, milliseconds."""
    with reported(debug):
        folder = resolve_adapter(adapter)
        base = basemodel or base_model(folder)
        from alorakit.engine.engine import Engine

        engine = Engine.from_pretrained(base, device=device)
        try:
            report = run_check(engine, folder, text, requirement, adapter_name(adapter))
        finally:
            engine.close()
        typer.echo(json.dumps(asdict(report), ensure_ascii=False) if as_json else render(report))


def base_model(adapter: Path) -> str:
    """Name of the base model an adapter folder was trained on.

    Raises:
        AdapterError: The folder does not name it, or names one that is not here.
    """
    from alorakit.engine.manifest import Manifest  # the tokenizer's library comes with it

    manifest = Manifest.load(adapter)
    name = manifest.base_model if manifest is not None else AdapterConfig.load(adapter).base_model
    if not name:
        raise AdapterError(f"{adapter} does not name its base model; give it with --basemodel")
    from alorakit.engine.pretrained import resolve_model

    try:
        resolve_model(name)
    except ModelNotFoundError as exc:
        raise AdapterError(f"{adapter} names its base model {name!r}: {exc}; or give it with --basemodel") from exc
    return name


def run_check(
    engine: "Engine", adapter: Path, text: str, requirement: str | None, name: str | None = None
) -> CheckReport:
    """Let the base model read a text, then check it with an adapter that reuses what was read.

    Args:
        engine: The engine; the adapter is added to it.
        adapter: Adapter folder.
        text: The text to check, as one user message.
        requirement: Requirement in words, or None.
        name: What the adapter is called; None: as its folder.

    Raises:
        CheckError: The adapter cannot check, or a requirement is given and does not say which labels pass.
        AdapterError: The adapter cannot be loaded.
    """
    from alorakit.bindings.checks.question import question
    from alorakit.engine.request import SamplingParams

    info = engine.add_adapter(name or adapter_name(adapter), adapter)
    chat = [{"role": "user", "content": text}]
    # Where no requirement is given, nobody asked for a verdict: the label is the answer, or the text.
    asked = question(engine.tokenizer, info, chat, requirement, decide=requirement is not None)
    manifest, tokenizer = info.manifest, engine.tokenizer
    as_chat = manifest is None or manifest.layout == "chat"
    context = tokenizer.render(chat) if as_chat else tokenizer.encode(text, add_special_tokens=False)
    [read] = engine.generate([context], SamplingParams(max_tokens=1))
    [answer] = engine.batch([asked.request])
    verdict = asked.verdict(answer)
    return CheckReport(
        label=verdict.label,
        probabilities=verdict.probabilities,
        passed=verdict.passed,
        context_tokens=len(context),
        context_ms=1e3 * read.timing.total_s,
        prompt_tokens=verdict.usage.prompt_tokens,
        reused_tokens=verdict.usage.cached_tokens,
        check_ms=1e3 * verdict.timing.total_s,
        answer=None if verdict.probabilities else verdict.answer,
    )


def render(report: CheckReport) -> str:
    """A report as lines for people."""
    verdict = {None: "", True: " (passes)", False: " (fails)"}[report.passed]
    ranked = sorted(report.probabilities.items(), key=lambda pair: -pair[1])
    return "\n".join(
        [
            *([] if report.answer is None else [f"answer   {report.answer}"]),
            f"label    {'none: the answer lacks its field' if report.label is None else report.label}{verdict}",
            *(f"  {probability:6.1%} {label}" for label, probability in ranked),
            f"context  {report.context_tokens} tokens read by the base model in {report.context_ms:.0f} ms",
            f"check    {report.reused_tokens} of {report.prompt_tokens} tokens reused, "
            f"{report.prompt_tokens - report.reused_tokens} computed, {report.check_ms:.0f} ms",
        ]
    )
