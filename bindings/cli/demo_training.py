"""First half of the demo: rows on disk, and an adapter trained on them unless it is already there."""

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import typer

from alorakit.bindings.cli.files import write_whole
from alorakit.bindings.cli.notes import LABELS, generate_notes
from alorakit.bindings.cli.progress import ProgressDisplay
from alorakit.engine.adapter_config import AdapterConfig
from alorakit.engine.errors import TrainingError
from alorakit.engine.manifest import MANIFEST_NAME, Manifest
from alorakit.engine.pretrained import DEMO_MODEL, resolve_model
from alorakit.engine.tokenizer import Tokenizer
from alorakit.training import TrainConfig, load_examples, train
from alorakit.training.adapter_folder import check_outfile

HELD_OUT = 100
ADAPTER_NAME = "my_adapter"
LORA_NAME = "lora_for_comparison"

Rows = list[dict[str, str]]


def write_rows(out: Path, rows: int, seed: int) -> Rows:
    """Write ``notes.jsonl`` and ``held_out.jsonl``; a file that already holds these rows is left alone.

    Args:
        out: Folder of the demo, made if it is not there.
        rows: Rows to train on.
        seed: Decides the rows.

    Returns:
        The held-out rows.

    Raises:
        TrainingError: The files cannot be written.
    """
    notes = generate_notes(rows + HELD_OUT, seed)
    for name, part in (("notes.jsonl", notes[:rows]), ("held_out.jsonl", notes[rows:])):
        path, text = out / name, _json_lines(part)
        if not (path.is_file() and path.read_bytes() == text.encode()):
            write_file(path, text)
    return notes[rows:]


def prepare_adapter(out: Path, seed: int, retrain: bool) -> bool:
    """Train the adapter on ``notes.jsonl``, unless the one that is there is newer than these rows.

    Args:
        out: Folder of the demo; :func:`write_rows` was here.
        seed: Decides the run.
        retrain: Train in any case.

    Returns:
        Whether it trained.

    Raises:
        TrainingError: The adapter cannot be written.
        AlorakitError: The model cannot be loaded.
    """
    folder, data, config = out / ADAPTER_NAME, out / "notes.jsonl", train_config(seed)
    if not retrain and _newer(folder / MANIFEST_NAME, data):
        typer.echo(f"{folder} was trained on these rows before; not trained again (--retrain does)")
        return False
    command = ["m", "alora", "train", str(data), "--basemodel", DEMO_MODEL, "--outfile", str(folder)]
    for name in ("epochs", "learning_rate", "batch_size", "grad_accum", "val_fraction", "seed"):
        command += [f"--{name.replace('_', '-')}", str(getattr(config, name))]
    typer.echo(f"the same as: {shlex.join(command)}")
    examples = load_examples(data, Tokenizer.from_pretrained(resolve_model(DEMO_MODEL).path))
    with ProgressDisplay(sys.stderr) as display:
        report = train(DEMO_MODEL, examples, config, folder, progress=display)
    typer.echo(f"{folder}: best epoch {report.best_epoch}, {report.tokens_per_s:.0f} tokens/s")
    return True


def train_config(seed: int) -> TrainConfig:
    """Settings that learn the notes in a few minutes on two cores."""
    return TrainConfig(epochs=3, learning_rate=2e-3, batch_size=8, grad_accum=1, val_fraction=0.1, seed=seed)


def check_place(out: Path, retrain: bool) -> None:
    """See, before anything is written, that the demo may put its adapters into ``out``.

    Raises:
        TrainingError: Another adapter is there, somebody's work; or the folder cannot be written.
        AdapterError: What is there cannot be read.
    """
    check_outfile(out / LORA_NAME)
    folder = check_outfile(out / ADAPTER_NAME)
    if not folder.exists() or not any(folder.iterdir()) or retrain:
        return
    manifest = Manifest.load(folder)
    alora = AdapterConfig.load(folder).invocation_tokens is not None
    if not alora or manifest is None or manifest.labels != LABELS:
        raise TrainingError(
            f"{out / ADAPTER_NAME} holds an adapter that is not the demo's; give another folder with --out, or replace "
            "it with --retrain"
        )


def write_file(path: Path, text: str) -> None:
    """Write a text file, whole or not at all.

    Raises:
        TrainingError: The disk refused.
    """
    write_whole(path, text.encode(), "give another folder with --out")


def _json_lines(rows: Sequence[dict[str, str]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _newer(made: Path, source: Path) -> bool:
    """As make sees it. A run that was cut short wrote its rows after the adapter that is there, so it trains again."""
    return made.is_file() and made.stat().st_mtime >= source.stat().st_mtime
