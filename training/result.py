"""What a finished run leaves: its report, and the files of the adapter folder."""

import json
from importlib.metadata import version
from pathlib import Path

from safetensors.torch import save

from alorakit.engine.manifest import MANIFEST_NAME, Manifest
from alorakit.engine.pretrained import ResolvedModel
from alorakit.engine.tokenizer import Tokenizer
from alorakit.training.adapter_folder import CARD_NAME, CONFIG_NAME, PICTURE_NAME, WEIGHTS_NAME, adapter_config
from alorakit.training.card import facts_of, model_card
from alorakit.training.data import ExampleList
from alorakit.training.io_yaml import IO_YAML_NAME, io_yaml
from alorakit.training.pictures import training_png
from alorakit.training.report import REPORT_NAME, TrainReport
from alorakit.training.run import Run

_VERSIONS = ("alorakit", "torch", "safetensors", "tokenizers")


def report_of(run: Run, path: Path) -> TrainReport:
    """The figures of a run that has ended.

    Args:
        run: The run.
        path: The adapter folder.
    """
    at, kept = run.at, run.model.prefixes
    best = at.history[at.best_epoch - 1]
    tokens = sum(run.examples[row].num_tokens for row in run.train_rows) * len(at.history)
    busy = run.prefix_seconds + sum(entry["seconds"] for entry in at.history)
    return TrainReport(
        history=at.history,
        best_epoch=at.best_epoch,
        metrics={name: best[name] for name in ("train_loss", "val_loss", "accuracy") if name in best},
        before=at.before,
        num_train=len(run.train_rows),
        num_val=len(run.val_rows),
        truncated=run.truncated,
        prefixes={
            "kept": kept.num_kept,
            "on_host": kept.num_host,
            "recomputed": kept.num_recomputed,
            "tokens_kept": kept.tokens_kept,
            "bytes_kept": kept.bytes_kept,
        },
        prefix_seconds=run.prefix_seconds,
        recompute_seconds=kept.seconds_recomputing,
        seconds=run.seconds,
        tokens_per_s=tokens / busy,
        path=path,
        steps=at.steps,
        stopped_early=run.stopped_early,
        temperature=at.best.get("temperature", 1.0),
        device=str(run.model.decoder.device),
        dtype=str(run.model.decoder.dtype).removeprefix("torch."),
        data_digest=run.identity.data,
        identity=vars(run.identity),
        per_class=[list(row) for row in at.best.get("per_class", ())],
        versions={name: version(name) for name in _VERSIONS},
    )


def adapter_files(run: Run, base: ResolvedModel, tokenizer: Tokenizer, report: TrainReport) -> dict[str, bytes]:
    """Contents of the adapter folder, by name."""
    config, manifest = run.config, _manifest(run, base, tokenizer, report)
    peft = adapter_config(config, manifest.base_model, run.examples[0].invocation_ids)
    confusion = run.at.best.get("confusion")
    picture = training_png(
        report.history, report.before, report.best_epoch, confusion, run.answers.labels, report.steps
    )
    return {
        CONFIG_NAME: (json.dumps(peft, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode(),
        WEIGHTS_NAME: save(dict(run.best_tensors), metadata={"format": "pt"}),
        MANIFEST_NAME: manifest.to_json().encode(),
        REPORT_NAME: report.to_json(config).encode(),
        CARD_NAME: model_card(manifest, config, facts_of(report)).encode(),
        IO_YAML_NAME: io_yaml(manifest).encode(),
        PICTURE_NAME: picture,
    }


def _manifest(run: Run, base: ResolvedModel, tokenizer: Tokenizer, report: TrainReport) -> Manifest:
    first, config = run.examples[0], run.config
    if isinstance(run.given, ExampleList):
        invocation = run.given.invocation
    else:
        invocation = tokenizer.decode(first.invocation_ids, skip_special_tokens=False)
    return Manifest(
        layout=first.layout,
        requirements=first.requirement,
        labels=tuple(run.answers.labels),
        pass_labels=config.pass_labels,
        fail_labels=config.fail_labels,
        base_model=base.name,
        invocation=invocation,
        capability=config.capability,
        metrics=report.metrics,
        answer=run.answers.kind,
        field=run.answers.field,
        temperature=report.temperature,
    )
