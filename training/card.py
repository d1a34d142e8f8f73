"""The model card of an adapter folder: ``README.md``, as the Hub shows it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from alorakit.engine.manifest import Manifest
from alorakit.training import card_code
from alorakit.training.card_mark import marked
from alorakit.training.config import TrainConfig
from alorakit.training.io_yaml import dump_yaml, passing
from alorakit.training.markdown import block, code_span, paragraphs, table
from alorakit.training.report import TrainReport

_MAX_LABELS = 64


@dataclass(frozen=True)
class CardFacts:
    """What a card says of a run beside its settings; what is not known is left out.

    Attributes:
        data_digest: SHA-256 of the tokenized rows, in hex.
        num_train: Rows trained on.
        num_val: Rows held out.
        before: The base model's metrics, by the names that ``Manifest.metrics`` uses.
        per_class: For each label: (label, precision, recall, F1, support), support in rows.
        seconds: Time of the whole run.
        device: Where it ran, such as ``"cpu"``.
        dtype: The base model's compute type.
        versions: Versions of the packages that took part.
        picture: Whether ``training.png`` lies in the folder.
    """

    data_digest: str = ""
    num_train: int = 0
    num_val: int = 0
    before: Mapping[str, float] = field(default_factory=dict)
    per_class: tuple[tuple[str, float, float, float, int], ...] = ()
    seconds: float = 0.0
    device: str = ""
    dtype: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    picture: bool = True


def facts_of(report: TrainReport, picture: bool = True) -> CardFacts:
    """What a run's report has of a card's facts.

    Args:
        report: The report.
        picture: Whether ``training.png`` lies in the folder.
    """
    return CardFacts(
        data_digest=report.data_digest,
        num_train=report.num_train,
        num_val=report.num_val,
        before=report.before,
        per_class=tuple((row[0], row[1], row[2], row[3], row[4]) for row in report.per_class),
        seconds=report.seconds,
        device=report.device,
        dtype=report.dtype,
        versions=report.versions,
        picture=picture,
    )


def model_card(manifest: Manifest, config: TrainConfig | Mapping[str, Any], facts: CardFacts | None = None) -> str:
    """Text of ``README.md``: no row of the data is in it, and no text of the data's can break its tables.

    Args:
        manifest: Contents of ``alorakit.json``.
        config: The run's settings; a mapping, ``adapter`` among it, where no more is known.
        facts: What the run found; None: nothing is known.
    """
    facts = facts or CardFacts()
    settings = config_settings(config)
    alora = settings["adapter"] == "alora"
    text = paragraphs(
        card_head(settings["adapter"], manifest.base_model),
        _about(manifest, alora),
        _metrics(manifest, facts),
        _training(settings, facts),
        _pictures(facts),
        _use(manifest, alora),
        _mellea(manifest, alora),
        _limits(manifest, alora),
    )
    return marked(text)


def config_settings(config: TrainConfig | Mapping[str, Any]) -> dict[str, Any]:
    """Settings as a card lists them: with the rank and the layers that were trained."""
    if isinstance(config, TrainConfig):
        return {**asdict(config), "rank": config.effective_rank, "target_modules": config.targets}
    return dict(config)


def card_head(kind: str, base_model: str) -> str:
    """The metadata that the Hub reads, between two lines ``---``.

    Args:
        kind: ``"alora"`` or ``"lora"``.
        base_model: Name of the base model.
    """
    about = {
        "library_name": "peft",
        "base_model": base_model,
        "base_model_relation": "adapter",
        "pipeline_tag": "text-generation",
        "tags": [kind, *(["lora"] if kind == "alora" else []), "peft", "alorakit", "mellea"],
    }
    return f"---\n{dump_yaml(about)}---"


def _about(manifest: Manifest, alora: bool) -> str:
    what = (
        "An activated LoRA: it changes the model's weights from its invocation on, so what lies before is the base "
        "model's own key-value cache, and nothing of it is computed again."
        if alora
        else "A LoRA: it changes the model's weights for every token."
    )
    if manifest.answer == "text":
        answers = "It reads a text and writes an answer of its own."
        if manifest.field is not None:
            answers = f"It reads a text and answers with a JSON object that has the field {code_span(manifest.field)}."
    else:
        answers = f"It reads a text and answers with one of {len(manifest.labels)} labels."
    rows = [
        ("base model", code_span(manifest.base_model)),
        ("invocation", code_span(manifest.invocation)),
        ("layout", f"{manifest.layout}{', with a requirement' if manifest.requirements else ''}"),
    ]
    if manifest.capability is not None:
        rows.append(("made for", code_span(manifest.capability)))
    if manifest.answer == "label":
        passes = passing(manifest)
        rows.append(("labels", _codes(manifest.labels)))
        rows.append(("labels that pass", _codes(sorted(passes)) if passes else "the requirement says"))
        if manifest.temperature != 1.0:
            rows.append(("temperature of its probabilities", f"{manifest.temperature:.3g}, fitted on held-out rows"))
    title = f"# {'Activated LoRA' if alora else 'LoRA'} for {code_span(manifest.base_model)}"
    return paragraphs(title, what, "## What it answers", answers, table(("", ""), rows))


def _metrics(manifest: Manifest, facts: CardFacts) -> str:
    if not manifest.metrics:
        return ""
    figures = [
        (name, f"{value:.4f}", f"{facts.before[name]:.4f}" if name in facts.before else "")
        for name, value in manifest.metrics.items()
    ]
    classes = [
        (code_span(label), f"{precision:.3f}", f"{recall:.3f}", f"{f1:.3f}", str(support))
        for label, precision, recall, f1, support in facts.per_class
    ]
    return paragraphs(
        "## Metrics",
        "Of the saved epoch, and of the base model without the adapter.",
        table(("metric", "adapter", "base model"), figures),
        table(("label", "precision", "recall", "F1", "rows"), classes) if classes else "",
    )


def _training(settings: Mapping[str, Any], facts: CardFacts) -> str:
    versions = [f"{code_span(name)} {code_span(version)}" for name, version in facts.versions.items()]
    run = [
        ("rows", f"{facts.num_train} trained on, {facts.num_val} held out" if facts.num_train else ""),
        ("SHA-256 of the tokenized rows", code_span(facts.data_digest) if facts.data_digest else ""),
        ("time", f"{facts.seconds:.0f} s" if facts.seconds else ""),
        ("ran on", ", ".join(code_span(part) for part in (facts.device, facts.dtype) if part)),
        ("with", ", ".join(versions)),
    ]
    known = [(name, text) for name, text in run if text]
    return paragraphs(
        "## Training",
        "The rows are not in this folder." + (" `training.json` has the figures of every epoch." if known else ""),
        table(("run", ""), known) if known else "",
        table(("setting", "value"), [(name, _setting(value)) for name, value in settings.items()]),
    )


def _setting(value: object) -> str:
    if isinstance(value, tuple):
        return _codes(value)
    return "none" if value is None else code_span(str(value))


def _pictures(facts: CardFacts) -> str:
    return "## Pictures\n\n![Losses by epoch, and what was taken for what](training.png)" if facts.picture else ""


def _use(manifest: Manifest, alora: bool) -> str:
    by_label, session = manifest.answer == "label", card_code.session_code(manifest)
    active = "It is active from the invocation's last occurrence on. " if alora else ""
    return paragraphs(
        "## Use in alorakit",
        block(card_code.engine_code(manifest, alora), "python"),
        "or, on the command line," if by_label else "",
        block(card_code.check_command(manifest), "sh") if by_label else "",
        "In a program that writes until its requirement is met:" if session else "",
        block(session, "python") if session else "",
        "## Use in PEFT",
        f"With PEFT 0.18 or later. {active}The answer ends with the end-of-sequence token.",
        block(card_code.peft_code(manifest, alora), "python"),
    )


def _mellea(manifest: Manifest, alora: bool) -> str:
    if alora:
        text = (
            "`io.yaml` is the adapter's contract for Mellea 0.8: its rewriter asks by it, its result processor reads "
            "the answer. Mellea's own `LocalHFBackend` loads adapters from the Hub only, and leaves an aLoRA without "
            "effect, silently: it never computes where the invocation is, so the answers are the base model's. Use "
            "the session of alorakit, above, or a server that applies aLoRAs, with"
        )
    else:
        short = code_span(manifest.base_model.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1])
        text = (
            "`io.yaml` is the adapter's contract for Mellea 0.8, whose `LocalHFBackend` loads adapters from the Hub "
            f"only: put these files into the folder `check/`{short}`/lora/` of a repository. Mellea asks in its own "
            "layout (the invocation in a message, then the chat template's generation prompt), which is not the one "
            "trained with; expect other figures than the above."
        )
    return paragraphs("## Use in Mellea", text, block(card_code.mellea_code(manifest, alora), "python"))


def _limits(manifest: Manifest, alora: bool) -> str:
    lines = [
        "It is made for this base model and this layout; other prompts get other answers.",
        "Figures hold for rows like those held out, and say nothing of other texts.",
    ]
    if manifest.answer == "label":
        lines.append("It always gives one of its labels, also to a text that none of them fits.")
    else:
        lines.append("What it writes is not checked for truth.")
    if not alora:
        lines.append("A context that the base model has read must be read again.")
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines)


def _codes(texts: Sequence[str]) -> str:
    shown = ", ".join(code_span(text) for text in texts[:_MAX_LABELS])
    return shown + (f" and {len(texts) - _MAX_LABELS} more, in `alorakit.json`" if len(texts) > _MAX_LABELS else "")
