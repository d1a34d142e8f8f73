"""Does it learn? Accuracy on rows that were not trained on, against the base model, and of an aLoRA against a LoRA.

Rows are JSONL of ``item`` and ``label``. Each seed shuffles them, trains on the first ``--rows``, a tenth of which
choose the epoch that is saved, and asks the rest. Labels are scored by ``Engine.score``; texts are generated, and count
by a field if they are JSON objects. Run: ``python -m benchmarks.bench_learning data.jsonl [--adapter both] [--rows 480]
[--seeds 3] [--preset small] [--field name]``; ``--threads 1`` leaves the other cores to others.
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from alorakit import Engine, SamplingParams
from alorakit.engine.tokenizer import Tokenizer
from alorakit.training import Example, ExampleList, TrainConfig, load_examples, train
from alorakit.training.answers import Answers, answers_of, parsed
from alorakit.training.config import PRESETS, preset
from benchmarks.harness import Target
from benchmarks.workloads import MODEL

SLACK = 16  # tokens that an answer may be longer than the longest label
KINDS = {"alora": ("alora",), "lora": ("lora",), "both": ("alora", "lora")}
MOST_POINTS_BEHIND = 3.0
OVERRIDES = ("epochs", "learning_rate", "rank", "alpha", "target_modules", "best_by", "scheduler")


def accuracy(engine: Engine, held_out: Sequence[Example], answers: Answers, adapter: str | None) -> float:
    """Share of rows that are answered right: the label that scores highest, or the parsed field of what is generated.

    Args:
        engine: Serves the adapter.
        held_out: Rows to ask.
        answers: What the labels are, by the training rows.
        adapter: Name; None: the base model, asked the same.
    """
    prompts = [[*example.prefix_ids, *example.invocation_ids] for example in held_out]
    if answers.kind == "label":
        best = [engine.score(prompt, answers.labels, adapter=adapter).best.text for prompt in prompts]
        return sum(text == example.label for text, example in zip(best, held_out, strict=True)) / len(held_out)
    longest = max(len(example.label_ids) for example in held_out) + SLACK
    outputs = engine.generate(prompts, SamplingParams(max_tokens=longest), adapter=adapter)
    found = [parsed(output.text, answers.field) for output in outputs]
    wanted = [parsed(example.label, answers.field) for example in held_out]
    return sum(a is not None and a == b for a, b in zip(found, wanted, strict=True)) / len(held_out)


def parts(examples: ExampleList, seed: int, rows: int | None, held_out: int | None) -> tuple[ExampleList, ExampleList]:
    """Rows to train on and rows to ask, shuffled by ``seed``: the first ``rows``, the last ``held_out`` or the rest.

    With neither number, one row in five is asked.

    Raises:
        SystemExit: There are not so many rows.
    """
    total = len(examples)
    if held_out is None:
        held_out = total - rows if rows is not None else total // 5
    rows = total - held_out if rows is None else rows
    if rows < 2 or held_out < 1 or rows + held_out > total:
        sys.exit(
            f"{rows} rows to train on and {held_out} to ask do not come out of {total}; lower --rows or --held-out"
        )
    order = random.Random(seed).sample(examples, total)
    chosen = (order[:rows], order[-held_out:])
    first, second = (ExampleList(part, examples.invocation, examples.truncated) for part in chosen)
    return first, second


def settings(args: argparse.Namespace, adapter: str, seed: int) -> TrainConfig:
    """The preset, and what the command line says otherwise."""
    given: dict[str, Any] = {name: getattr(args, name) for name in OVERRIDES if getattr(args, name) is not None}
    common = {"val_fraction": args.val_fraction, "field": args.field, "dtype": args.dtype, "device": args.device}
    return TrainConfig(**{**preset(args.preset, adapter), **common, **given, "adapter": adapter, "seed": seed})


def learn(engine: Engine, examples: ExampleList, args: argparse.Namespace, seed: int) -> dict[str, Any]:
    """One seed: what base model and adapters get right, seconds and best epoch of each training."""
    rows, held_out = parts(examples, seed, args.rows, args.held_out)
    answers = answers_of(rows, settings(args, "alora", seed))
    known = {example.prefix_ids for example in rows}
    found: dict[str, Any] = {"seed": seed, "rows": len(rows), "held_out": len(held_out), "answers": answers.kind}
    found["seen"] = sum(example.prefix_ids in known for example in held_out)
    found["base"] = accuracy(engine, held_out, answers, None)
    for adapter in KINDS[args.adapter]:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            report = train(engine.model_path, rows, settings(args, adapter, seed), Path(folder, "adapter"))
            found[f"{adapter}_s"] = time.perf_counter() - start
            engine.add_adapter("trained", Path(folder, "adapter"), replace=True)
        found[adapter] = accuracy(engine, held_out, answers, "trained")
        found[f"{adapter}_epoch"] = report.best_epoch
        print(
            f"seed {seed}, {adapter}: {found['base']:.3f} -> {found[adapter]:.3f} on {len(held_out)} rows of which ",
            end="",
        )
        print(f"{found['seen']} were seen; epoch {report.best_epoch} of {len(report.history)}; training ", end="")
        print(f"{found[f'{adapter}_s']:.0f} s, of it {report.prefix_seconds:.0f} s for the prefixes", flush=True)
    return found


def summary(runs: Sequence[dict[str, Any]], adapters: Sequence[str]) -> dict[str, Any]:
    """Print mean and range over the seeds, and how far the aLoRA is behind the LoRA; the same as a mapping."""
    first = runs[0]
    print(f"\naccuracy, {len(runs)} seeds, {first['rows']} rows to train on, {first['held_out']} asked")
    print(f"{'':10}{'mean':>8}{'min':>8}{'max':>8}{'training':>12}")
    figures: dict[str, Any] = {}
    for name in ("base", *adapters):
        values = [run[name] for run in runs]
        figures[name] = {"mean": statistics.mean(values), "min": min(values), "max": max(values)}
        line = f"{name:10}" + "".join(f"{value:>8.3f}" for value in figures[name].values())
        if name != "base":
            figures[name]["train_s"] = statistics.mean(run[f"{name}_s"] for run in runs)
            line += f"{figures[name]['train_s']:>10.0f} s"
        print(line)
    if len(adapters) == 2:
        behind = 100 * (figures["lora"]["mean"] - figures["alora"]["mean"])
        target = Target("the aLoRA behind the LoRA", behind, MOST_POINTS_BEHIND, at_least=False, unit=" points")
        print(target)
        figures["behind"] = {"points": behind, "limit": target.limit, "met": target.met}
    return figures


def main() -> None:
    """Run the benchmark and print, as the last line, JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--adapter", choices=KINDS, default="alora")
    parser.add_argument("--rows", type=int, help="to train on, validation included; default: all that are not asked")
    parser.add_argument("--held-out", type=int, help="to ask; default: the rest, or a fifth")
    parser.add_argument("--seeds", type=int, default=3, help="that many, from 0")
    parser.add_argument("--seed-list", help="these instead: 3,4,5")
    parser.add_argument("--preset", choices=PRESETS, default="small")
    parser.add_argument("--field", help="of labels that are JSON objects: what counts; default: the first text")
    parser.add_argument("--val-fraction", type=float, default=0.1)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--rank", type=int)
    parser.add_argument("--alpha", type=float)
    parser.add_argument("--target-modules", type=lambda text: text if text == "all-linear" else tuple(text.split(",")))
    parser.add_argument("--best-by", choices=("loss", "accuracy"))
    parser.add_argument("--scheduler", choices=("constant", "linear", "cosine"))
    parser.add_argument("--max-length", type=int, default=1024)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    if args.data is None:
        print("bench_learning: give a JSONL file of item and label; nothing to do")
        sys.exit(0)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    seeds = [int(seed) for seed in args.seed_list.split(",")] if args.seed_list else range(args.seeds)
    with Engine.from_pretrained(args.model, dtype=args.dtype, device=args.device, memory_fraction=0.05) as engine:
        tokenizer = Tokenizer.from_pretrained(engine.model_path)
        examples = load_examples(args.data, tokenizer, max_length=args.max_length)
        runs = [learn(engine, examples, args, seed) for seed in seeds]
    figures = summary(runs, KINDS[args.adapter])
    given = {name: value for name, value in vars(args).items() if value is not None and name != "data"}
    print(json.dumps({"accuracy": figures, "runs": runs, "settings": given}))


if __name__ == "__main__":
    main()
