"""The demo's tour on a small real model, each number measured as it is printed."""

import json
import shutil
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from alorakit.bindings.cli.demo_measure import REQUIREMENT, Accuracy, add_plain_lora, measure_accuracy, measure_checks
from alorakit.bindings.cli.demo_table import accuracy_lines, print_costs
from alorakit.bindings.cli.demo_training import (
    ADAPTER_NAME,
    LORA_NAME,
    check_place,
    prepare_adapter,
    train_config,
    write_file,
    write_rows,
)
from alorakit.bindings.session import ChatContext, CustomIntrinsicAdapter, EngineBackend, MelleaSession, req
from alorakit.engine.errors import TrainingError
from alorakit.engine.pretrained import DEMO_MODEL, resolve_model

ROWS = 560
_REPORT_NOTES = 24
_INSTRUCTION = "Write a triage summary based on this technician note: {{note}}"
_NOTE = "High vibration at 3100 RPM, connecting rod suspected."


def run_demo(out: Path, seed: int = 0, rows: int = ROWS, retrain: bool = False) -> dict[str, Any]:
    """Write failure notes, train an aLoRA on them, say how well it learned, use it, and measure what a check costs.

    Leaves in ``out``: ``notes.jsonl``, ``held_out.jsonl``, ``my_adapter``, ``lora_for_comparison``, ``demo.json``.

    Args:
        out: Folder for all that.
        seed: Decides the rows and the training.
        rows: Rows to train on.
        retrain: Train even if the adapter is there already.

    Returns:
        What ``demo.json`` holds.

    Raises:
        TrainingError: ``out`` cannot be used, or the adapter is no better than the base model.
        AlorakitError: The model cannot be loaded.
    """
    seconds: dict[str, float] = {}
    train_config(seed)  # raises now rather than when the rows are written
    check_place(out, retrain)
    with _stage("model", "1/6 Model", seconds):
        found = resolve_model(DEMO_MODEL)
        typer.echo(f"{DEMO_MODEL} in {found.path}")
    with _stage("rows", "2/6 Rows: technicians' notes, each labelled with a failure mode or no_failure", seconds):
        held_out = write_rows(out, rows, seed)
        typer.echo(f"{rows} rows to train with, {len(held_out)} that training never sees; one of them:")
        typer.echo(_short(f"{held_out[0]['item']}  ->  {held_out[0]['label']}", 3))
    with _stage("training", "3/6 Training an aLoRA", seconds):
        trained = prepare_adapter(out, seed, retrain)
    with _stage("accuracy", f"4/6 Accuracy on the {len(held_out)} rows that training never saw", seconds):
        backend = load_backend(out)
        accuracy = measure_accuracy(backend, ADAPTER_NAME, held_out)
        typer.echo("\n".join(accuracy_lines(accuracy)))
        demand_improvement(accuracy)
    with _stage("session", "5/6 A session: the base model answers, the aLoRA checks the answer", seconds):
        attempts = _run_program(backend)
    with _stage("checks", "6/6 What one check costs, right after the base model answered a long report", seconds):
        lora = add_plain_lora(backend.engine, ADAPTER_NAME, out / LORA_NAME)
        costs = measure_checks(backend, ADAPTER_NAME, lora, [row["item"] for row in held_out[:_REPORT_NOTES]])
        print_costs(costs)
    backend.close()
    figures = {
        "model": DEMO_MODEL,
        "rows": rows,
        "seed": seed,
        "trained": trained,
        "accuracy": asdict(accuracy),
        "session": attempts,
        "checks": [asdict(cost) for cost in costs],
        "seconds": seconds,
    }
    write_file(out / "demo.json", json.dumps(figures, indent=2, ensure_ascii=False) + "\n")
    typer.echo(f"\nDone in {sum(seconds.values()):.0f} s. All figures: {out / 'demo.json'}")
    return figures


def load_backend(out: Path) -> EngineBackend:
    """The base model with the demo's adapter."""
    backend = EngineBackend(model_id=DEMO_MODEL)
    adapter = CustomIntrinsicAdapter(model_id=out / ADAPTER_NAME, base_model_name=DEMO_MODEL.rpartition("/")[2])
    backend.add_adapter(adapter)
    return backend


def demand_improvement(accuracy: Accuracy) -> None:
    """The demo must not claim what did not happen.

    Raises:
        TrainingError: The adapter is not right more often than the base model.
    """
    if accuracy.after <= accuracy.before:
        raise TrainingError(
            f"accuracy with the adapter is {accuracy.after:.1%}, not above the base model's {accuracy.before:.1%}; "
            "run again with --retrain, and report it if it stays so"
        )


def _run_program(backend: EngineBackend) -> list[dict[str, object]]:
    """The README's program, but for the last argument, which gives every attempt instead of the chosen one."""
    m = MelleaSession(backend, ctx=ChatContext())
    failure_check = req(REQUIREMENT)
    result = m.instruct(
        _INSTRUCTION,
        user_variables={"note": _NOTE},
        requirements=[failure_check],
        return_sampling_results=True,
    )
    typer.echo(f"instruct     {_INSTRUCTION.replace('{{note}}', _NOTE)}\nrequirement  {REQUIREMENT}")
    attempts: list[dict[str, object]] = []
    for output, verdicts in zip(result.sample_generations, result.sample_validations, strict=True):
        typer.echo(_short(f"answer       {' '.join(str(output).split())}", 2))
        for _, verdict in verdicts:
            typer.echo(f"check        {'passes' if verdict.as_bool() else 'fails'}: {verdict.reason}")
            attempts.append({"passed": verdict.as_bool(), "probabilities": verdict.probabilities})
    typer.echo("(The aLoRA learned from single notes, not from chats like this one: its label may be off here.)")
    return attempts


@contextmanager
def _stage(name: str, title: str, seconds: dict[str, float]) -> Iterator[None]:
    typer.echo(f"\n== {title}")
    began = time.perf_counter()
    yield
    seconds[name] = took = time.perf_counter() - began
    typer.echo(f"({took:.1f} s)")


def _short(text: str, lines: int) -> str:
    width = shutil.get_terminal_size((110, 24)).columns
    return "\n".join(textwrap.wrap(text, width, max_lines=lines, placeholder=" …"))
