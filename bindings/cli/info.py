"""``m alora info``: what an adapter folder is, what it is for, and what stands in its way."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alorakit.bindings.cli.errors import Debug, reported
from alorakit.bindings.cli.options import AsJson

if TYPE_CHECKING:
    from alorakit.engine.adapter_summary import AdapterSummary

_MAX_LABELS = 20


def info(
    adapter: Annotated[
        str,
        typer.Argument(metavar="DIR", help="Adapter folder, or one of the Hub: org/name, org/name@revision."),
    ],
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Explain an adapter folder: kind, rank, targets, invocation, base, labels, and what is not supported."""
    with reported(debug):
        from alorakit.engine.adapter_summary import summarize
        from alorakit.engine.pretrained import resolve_adapter

        found = _described(summarize(resolve_adapter(adapter)))
        typer.echo(json.dumps(found, ensure_ascii=False) if as_json else _lines(found))


def _described(summary: "AdapterSummary") -> dict[str, Any]:
    manifest = summary.manifest
    found = asdict(summary) | {"path": str(summary.path), "usable": not summary.problems}
    found["manifest"] = None if manifest is None else asdict(manifest)
    found["invocation_text"] = _invocation_text(summary)
    found["files"] = sorted(path.name for path in summary.path.iterdir() if path.is_file())
    return found


def _invocation_text(summary: "AdapterSummary") -> str | None:
    """What the manifest says, else what the base model's tokenizer makes of the ids, if it is on this machine."""
    if summary.manifest is not None and summary.manifest.invocation:
        return summary.manifest.invocation
    if not summary.invocation_tokens:
        return None
    from alorakit.engine.errors import AlorakitError
    from alorakit.engine.pretrained import local_model
    from alorakit.engine.tokenizer import Tokenizer

    try:
        base = local_model(summary.base_model)
        if base is None:
            return None
        return Tokenizer.from_pretrained(base).decode(list(summary.invocation_tokens), skip_special_tokens=False)
    except (AlorakitError, IndexError, OverflowError):  # another base model's ids
        return None


def _lines(found: dict[str, Any]) -> str:
    manifest, tokens = found["manifest"] or {}, found["invocation_tokens"]
    rows = [("adapter", found["path"])]
    rows.append(("kind", "activated LoRA (aLoRA)" if found["kind"] == "alora" else "LoRA, active from the first token"))
    if found["kind"] == "alora":
        text = "" if found["invocation_text"] is None else f"{found['invocation_text']!r}, "
        rows.append(("invocation", f"{text}tokens {list(tokens or ())}"))
    rows += [
        ("base", found["base_model"] or "not named"),
        (
            "rank",
            _numbers(found["ranks"]) + (f", delta times {_numbers(found['scalings'])}" if found["scalings"] else ""),
        ),
        ("targets", f"{', '.join(found['targets'])}{_of_layers(found['layers'])}"),
        (
            "size",
            f"{found['parameters']:,} parameters as {', '.join(found['dtypes'])}, {found['weights_bytes']:,} bytes"
            if found["parameters"]
            else "no weights that can be read",
        ),
    ]
    rows += _purpose(manifest) if manifest else [("layout", "not recorded (no alorakit.json); say it with layout=")]
    if "README.md" not in found["files"]:
        rows.append(("card", "none; write it with m alora add-readme"))
    if found["problems"]:
        rows += [("unsupported" if not index else "", problem) for index, problem in enumerate(found["problems"])]
    else:
        rows.append(("supported", "yes; the engine takes it if the base model's shapes fit"))
    return "\n".join(f"{name:<12} {text}".rstrip() for name, text in rows)


def _purpose(manifest: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [("layout", manifest["layout"] + (", with a requirement" if manifest["requirements"] else ""))]
    if manifest["capability"]:
        rows.append(("made for", manifest["capability"]))
    if manifest["answer"] == "text":
        rows.append(
            ("answers", "a text" + (f", a JSON object with {manifest['field']!r}" if manifest["field"] else ""))
        )
    else:
        rows.append(("labels", _labels(manifest["labels"])))
        for key, name in (("pass_labels", "pass"), ("fail_labels", "fail")):
            if manifest[key] is not None:
                rows.append((name, _labels(manifest[key])))
    if manifest["metrics"]:
        rows.append(("metrics", ", ".join(f"{name} {value:.4g}" for name, value in manifest["metrics"].items())))
    return rows


def _labels(labels: tuple[str, ...]) -> str:
    shown = ", ".join(label if label.isprintable() else repr(label) for label in labels[:_MAX_LABELS])
    return shown + (f" and {len(labels) - _MAX_LABELS} more" if len(labels) > _MAX_LABELS else "") or "none"


def _of_layers(layers: int) -> str:
    return f" in {layers} layer{'s' if layers != 1 else ''}" if layers else ""


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values) or "not said"
